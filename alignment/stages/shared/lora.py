"""LoRA in the stages: which adapter is trained, on what it sits, and what it is measured against."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from trl import ModelConfig, get_peft_config

from alignment.errors import UserError, raise_all
from alignment.models.adapters import copy_adapter, frozen_copy, put_on_top, require_targets, run_under
from alignment.models.checkpoints import is_adapter
from alignment.models.loading import REFERENCE_ADAPTER, load_config, load_stack, load_trainable
from alignment.models.merging import merge_once
from alignment.models.quantization import quantization_of, require_quantization
from alignment.models.vocabulary import make_room, trained_rows
from alignment.stages import STAGES
from alignment.stages.shared.stage_run import INITIAL_ADAPTER

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments(ModelConfig):
    """TRL's `ModelConfig`, and how a stage goes on from a parent that is an adapter."""

    adapter_mode: Literal["continue", "stack", "merge"] = field(
        default="continue",
        metadata={
            "help": "Where the parent is an adapter: train it further (continue), train a new one over it (stack), or "
            "merge it into its base, which is written beside the checkpoint, and train a new one on that (merge)."
        },
    )
    init_lora_weights: str | None = field(
        default=None,
        metadata={
            "help": "PEFT's key: how a new adapter begins: gaussian, orthogonal, pissa, or pissa_niter_4 (a faster, "
            "approximate one). PiSSA's adapter is saved as plain LoRA of twice the rank, on the base as it was."
        },
    )
    loraplus_lr_ratio: float | None = field(
        default=None, metadata={"help": "LoRA+: how many times faster LoRA's B matrices learn than its A matrices."}
    )

    def __post_init__(self):
        super().__post_init__()
        # TRL makes a text of a list of one name, which PEFT would take for an expression that whole names are to match.
        if isinstance(self.lora_target_modules, str) and self.lora_target_modules.isidentifier():
            self.lora_target_modules = [self.lora_target_modules]


@dataclass(frozen=True)
class Start:
    """What a stage trains.

    Attributes:
        peft_config: of the adapter that the trainer is to add; None where the model has it, or is trained in full.
        reference: the parent as it is, where that is not what the trainer would take for it by itself.
    """

    model: PreTrainedModel | PeftModel
    peft_config: LoraConfig | None = None
    reference: PreTrainedModel | None = None

    @property
    def callbacks(self) -> list[TrainerCallback]:
        adapters = self.model.active_adapters if isinstance(self.model, PeftModel) else []
        return [KeepStack(adapters)] if len(adapters) > 1 else []


class KeepStack(TrainerCallback):
    """Puts all adapters of a stack to work again: a Trainer that resumes sets the first one alone."""

    def __init__(self, adapters: list[str]):
        self.adapters = adapters

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        run_under(model, self.adapters)


def check_adapter(model_args: ModelArguments, method: str) -> None:
    """Raise for an adapter that the stage cannot train: all that is wrong with its keys together."""
    raise_all([*_wrong_mode(model_args), *_wrong_keys(model_args, method)])
    if model_args.load_in_4bit or model_args.load_in_8bit:
        require_quantization(f"load_in_{'4' if model_args.load_in_4bit else '8'}bit: true")
    parent = model_args.model_name_or_path
    if model_args.use_peft and model_args.lora_target_modules and Path(parent).is_dir():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(load_config(parent))
        require_targets(model, model_args.lora_target_modules)


def _wrong_mode(model_args: ModelArguments) -> Iterator[UserError]:
    mode, parent = model_args.adapter_mode, model_args.model_name_or_path
    if mode == "continue" or not is_adapter(parent):
        return
    if not model_args.use_peft:
        yield UserError(
            f"adapter_mode: {mode} trains a new adapter, and the recipe has none",
            got="use_peft: false",
            expected="use_peft: true, with lora_r and what else the adapter is to have",
            fix="set it, or adapter_mode: continue; to train all weights, start from what `align merge` writes",
        )
    if mode == "stack" and (model_args.use_dora or _changes_base(model_args)):
        yield UserError(
            "a DoRA or PiSSA adapter cannot stand over another",
            got=f"use_dora: {model_args.use_dora}, init_lora_weights: {model_args.init_lora_weights}",
            expected="plain LoRA: both would start from the base's weights, not from what the parent makes of them",
            fix="adapter_mode: merge, or use_dora: false and no init_lora_weights",
        )


def _wrong_keys(model_args: ModelArguments, method: str) -> Iterator[UserError]:
    begin, new = model_args.init_lora_weights, model_args.use_peft
    quantised = model_args.load_in_4bit or model_args.load_in_8bit
    if quantised and not (new or is_adapter(model_args.model_name_or_path)):
        yield UserError(
            "a quantised model cannot be trained in full",
            got="use_peft: false",
            expected="an adapter",
            fix="use_peft: true",
        )
    if quantised and model_args.dtype == "auto":
        yield UserError(
            "a quantised base needs the type that it is to compute in",
            got="dtype: auto",
            expected="bfloat16, float16 or float32",
            fix="dtype: bfloat16",
        )
    if quantised and new and _changes_base(model_args):
        yield UserError(
            "PiSSA takes its share out of the base's weights, and quantised ones stay as they are",
            got=f"init_lora_weights: {begin}",
            expected="a base that is not quantised",
            fix="leave init_lora_weights out, or load_in_4bit: false",
        )
    if begin is not None and not re.fullmatch(r"gaussian|orthogonal|pissa(_niter_[1-9]\d*)?", begin):
        yield UserError(
            "init_lora_weights has no such way to begin",
            got=begin,
            expected="gaussian, orthogonal, pissa or pissa_niter_N",
            fix="leave it out for LoRA's own, whose B begins as 0",
        )
    if _changes_base(model_args) and new and STAGES[method].has_reference:
        yield UserError(
            "PiSSA changes the base, which is the reference here",
            got=f"init_lora_weights: {begin}",
            expected="a base that stays as it is",
            fix=f"begin with PiSSA in the sft stage, and let {method} go on with its adapter",
        )
    if model_args.loraplus_lr_ratio is not None and STAGES[method].has_critic:
        yield UserError(
            f"loraplus_lr_ratio has no effect in the {method} stage, whose optimizer has a rate for the critic",
            got=model_args.loraplus_lr_ratio,
            fix="leave it out",
        )


def _changes_base(model_args: ModelArguments) -> bool:
    return (model_args.init_lora_weights or "").startswith("pissa")


def starting_point(
    model_args: ModelArguments,
    options: dict,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    stage_dir: Path,
    rows: int = 0,
) -> Start:
    """The model of a stage, by `adapter_mode` where its parent is an adapter.

    Args:
        options: for `from_pretrained`.
        kind: causal-lm or sequence-classification.
        stage_dir: where the merged base is written.
        rows: of embeddings that the model is to have at least.
    """
    parent = model_args.model_name_or_path
    if not is_adapter(parent):
        model = load_trainable(parent, kind, **options)
        grown = make_room(model, rows)
        if grown:
            logger.info("the model's embeddings grow from %d to %d rows, for the new tokens", grown.start, grown.stop)
        return Start(model, new_adapter(model, model_args, tokenizer, kind, grown))
    if model_args.adapter_mode == "merge":
        base = merge_once(parent, stage_dir / "base", options)
        logger.info("the parent is an adapter: merged into its base, which is %s; a new adapter sits on that", base)
        model = load_trainable(str(base), kind, **options)
        return Start(model, new_adapter(model, model_args, tokenizer, kind))
    if model_args.adapter_mode == "stack":
        logger.info("the parent is an adapter: it stays as it is, under a new one")
        model = load_stack(parent, kind, **options)
        config = new_adapter(model, model_args, tokenizer, kind)
        config.trainable_token_indices = None  # the adapters below have trained them, and PEFT saves one such adapter
        reference = frozen_copy(model)
        put_on_top(model, config)
        return Start(model, reference=reference)
    logger.info("the parent is an adapter: it is trained further, on its own base")
    model = load_trainable(parent, kind, **options)
    # TRL's and our own copy of an adapter for reference would be without those below it.
    return Start(model, reference=frozen_copy(model) if len(model.active_adapters) > 1 else None)


def new_adapter(
    model: PreTrainedModel,
    model_args: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    grown: Sequence[int] = (),
) -> LoraConfig | None:
    """The config of the adapter to add; none without use_peft.

    Args:
        kind: causal-lm or sequence-classification.
        grown: rows of embeddings that only the adapter will hold.
    """
    if not model_args.use_peft:
        return None
    config = get_peft_config(model_args)
    config.target_modules = config.target_modules or "all-linear"
    if model_args.init_lora_weights is not None:
        config.init_lora_weights = model_args.init_lora_weights
    if kind == "sequence-classification":
        config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
    elif tokens := sorted({*template_token_ids(tokenizer), *grown}):
        config.trainable_token_indices = trained_rows(model, tokens)
    return config


@contextmanager
def adapter_in_32_bit(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Around the making of a TRL trainer: an adapter on a quantised base stays in 32 bit, as on any other base.

    TRL rounds it to bfloat16, in which steps of the size of DPO's (2e-5) are lost on most of LoRA's weights, and the
    adapter that a stage goes on with would no longer be the one that it is measured against.
    """
    quantised = quantization_of(model) is not None
    before = {id(one): one.data for one in model.parameters() if one.requires_grad} if quantised else {}
    yield
    if quantised:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = before.get(id(parameter), parameter.data.float())


def adapt_trainer(trainer: Trainer, model_args: ModelArguments) -> None:
    """What PEFT's own keys ask of a trainer whose adapter is in place: LoRA+'s rates, PiSSA's start to compare with."""
    if not isinstance(trainer.model, PeftModel):
        return
    if model_args.loraplus_lr_ratio is not None:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(trainer.args)
        # PEFT's own rate for embeddings, 1e-6, would leave the rows of the turn markers as they are.
        options |= {"loraplus_lr_ratio": model_args.loraplus_lr_ratio, "loraplus_lr_embedding": options["lr"]}
        options |= {"weight_decay": trainer.args.weight_decay}
        trainer.optimizer = create_loraplus_optimizer(trainer.model, kind, **options)
    # What PiSSA's adapter has learned is its difference from how it began.
    config = trainer.model.peft_config[trainer.model.active_adapter]
    if str(config.init_lora_weights).startswith("pissa"):
        begin, config.init_lora_weights = config.init_lora_weights, True  # as PEFT's guide to PiSSA has it
        trainer.model.save_pretrained(Path(trainer.args.output_dir) / INITIAL_ADAPTER)
        config.init_lora_weights = begin


def expose_head_bias(model: PreTrainedModel | PeftModel) -> None:
    """Let an output layer whose tokens are trained answer for its missing bias.

    TRL reads `weight` and `bias` of the output layer. PEFT's wrapper around tied embeddings with trainable tokens gives
    the merged weight, but raises for the bias, which no tied embedding has.
    """
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.register_parameter("bias", None)


def complete_reference(model: PreTrainedModel | PeftModel) -> None:
    """Make TRL's reference adapter the whole copy that it is meant to be.

    Where a policy's adapter goes on, DPOTrainer copies LoRA's matrices into an adapter `ref`, but not the trained
    tokens (their parameters end with the adapter's name): the reference would be another model than the policy.
    """
    if isinstance(model, PeftModel) and REFERENCE_ADAPTER in model.peft_config:
        copy_adapter(model, model.active_adapter, REFERENCE_ADAPTER)


def template_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the chat template writes.

    A base model has never seen them: their embeddings are noise, which low-rank updates of the other layers cannot
    mend (peft#334), so their rows are trained with the adapter.
    """
    if not tokenizer.chat_template:
        return []
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    return sorted(special.intersection(ids))
