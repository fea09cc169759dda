"""The pretrain stage: a causal language model on packed documents, from random weights or from a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    default_data_collator,
    set_seed,
)

from alignment.data.arguments import DataArguments
from alignment.data.tokenizing.packing import PackedRows, pack
from alignment.data.tokenizing.scored import ScoredTexts
from alignment.data.tokenizing.tokens import TokenizedDocuments, tokenize
from alignment.data.tokenizing.windows import TokenWindows
from alignment.errors import UserError, did_you_mean, raise_all
from alignment.models.gpt import GPTConfig, GPTForCausalLM
from alignment.models.loading import load_tokenizer, load_trainable
from alignment.models.packed_documents import require_documents_apart
from alignment.stages import CAUSAL_LM, STAGES, TOKENIZER
from alignment.stages.self_check.loss_checks import check_language_model_loss
from alignment.stages.self_check.policy_checks import starts_from
from alignment.stages.shared.inputs import load_data
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.stage_keys import StageKeys
from alignment.stages.shared.stage_run import StageRun
from alignment.trainers.pretrain.trainer import PretrainConfig, PretrainTrainer

PARENTS = {"tokenizer_name_or_path": TOKENIZER, "model_name_or_path": CAUSAL_LM}
MODEL_FIELDS = ("preset", *(one.name for one in fields(GPTConfig)), *GPTConfig.attribute_map)


@dataclass
class PretrainArguments:
    """The model: a new one, described by `model_config`, or an existing one to continue training."""

    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "The tokenizer; default: that of model_name_or_path."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Continue training this model; default: a new model."}
    )
    model_config: dict | None = field(
        default=None,
        metadata={"help": "Fields of GPTConfig for a new model; `preset` names a shape that gives the other fields."},
    )

    def __post_init__(self):
        if self.model_name_or_path is None and self.tokenizer_name_or_path is None:
            raise UserError(
                "there is nothing to start from",
                expected="tokenizer_name_or_path (for a new model) or model_name_or_path (to continue one)",
            )
        if self.model_name_or_path is not None and self.model_config is not None:
            raise UserError(
                "model_config and model_name_or_path exclude each other",
                fix="leave out model_config to continue training a model",
            )
        raise_all([_unknown_field(name) for name in self.model_config or {} if name not in MODEL_FIELDS])

    @property
    def tokenizer_source(self) -> str:
        """The checkpoint whose tokenizer is used."""
        source = self.tokenizer_name_or_path or self.model_name_or_path
        assert source is not None  # as __post_init__ has checked
        return source


def _unknown_field(name: str) -> UserError:
    fix = did_you_mean(name, MODEL_FIELDS, "docs/model.md lists the options")
    return UserError(f"model_config: GPTConfig has no field {name!r}", fix=fix)


@dataclass
class PretrainRecipe(StageKeys, PretrainConfig):
    """Our `PretrainConfig`."""

    bf16: bool | None = field(default=None, metadata={"help": "Train in bf16; default: true if the hardware has it."})


CONFIGS = (PretrainArguments, DataArguments, PretrainRecipe)


def check(model_args: PretrainArguments, data: DataArguments, args: PretrainRecipe) -> None:
    if model_args.model_name_or_path:
        require_documents_apart(model_args.model_name_or_path, fix="start from a model that keeps documents apart")


def run(
    model_args: PretrainArguments, data: DataArguments, args: PretrainRecipe, callbacks: Sequence[TrainerCallback] = ()
) -> StageResult:
    parent = model_args.model_name_or_path
    stage = StageRun("pretrain", args, callbacks)
    trainer = make_trainer(model_args, data, args, stage.folder, *stage.callbacks)
    checks = [starts_from(parent), check_language_model_loss]
    metrics = stage.train(trainer, checks, evaluated=["eval_loss", "eval_bits_per_byte"])
    parents = {"model_name_or_path": parent, "tokenizer_name_or_path": model_args.tokenizer_name_or_path}
    return stage.finish(trainer, parents, data, metrics)


def make_trainer(
    model_args: PretrainArguments,
    data: DataArguments,
    args: PretrainRecipe,
    stage_dir: Path,
    *callbacks: TrainerCallback,
) -> PretrainTrainer:
    """Return our trainer with model, tokenizer and rows, ready to train."""
    set_seed(args.seed)
    tokenizer = load_tokenizer(model_args.tokenizer_source)
    length = args.max_length or tokenizer.model_max_length
    # Without a padding token any id will do: padding has no labels, and no document sees it.
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model = make_model(model_args, tokenizer, length)
    splits = load_data(data, STAGES["pretrain"].data, args.seed, stage_dir)
    with args.main_process_first(local=False, desc="tokenize and pack"):  # the others take the rows from the cache
        documents = {name: tokenize(split, tokenizer) for name, split in splits.items()}
        rows = {name: make_rows(split, args, length, pad_id, name) for name, split in documents.items()}
    validation = documents.get("validation")
    return PretrainTrainer(
        model=model,
        args=args,
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        eval_bytes=None if validation is None else validation.text_bytes,
        eval_text=None if validation is None else ScoredTexts(validation, tokenizer, length, pad_id),
        data_collator=default_data_collator,
        processing_class=tokenizer,
        callbacks=[*callbacks],
    )


def make_rows(
    documents: TokenizedDocuments, args: PretrainRecipe, length: int, pad_id: int, split: str
) -> PackedRows | TokenWindows:
    """Pack whole documents, or cut the text into windows; windows of validation text do not overlap."""
    if args.window_stride is None:
        return pack(documents, length, pad_id)
    return TokenWindows(documents, length, args.window_stride if split == "train" else length)


def make_model(args: PretrainArguments, tokenizer: PreTrainedTokenizerBase, length: int) -> PreTrainedModel:
    """Return a new GPT for this tokenizer and context, or load the model to continue training."""
    if args.model_name_or_path:
        return load_trainable(args.model_name_or_path, CAUSAL_LM, dtype="float32")
    return GPTForCausalLM(new_config(args.model_config, tokenizer, length, len(tokenizer)))


def new_config(
    model_config: dict | None, tokenizer: PreTrainedTokenizerBase, length: int, vocab_size: int
) -> GPTConfig:
    """Return the config of a new GPT: the recipe's fields, and the rest from tokenizer and context length."""
    inherited = {
        "vocab_size": vocab_size,
        "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    shape = dict(model_config or {})
    preset = shape.pop("preset", None)
    wanted = inherited | shape
    return GPTConfig.from_preset(preset, **wanted) if preset else GPTConfig(**wanted)
