"""The SFT stage: TRL's SFTTrainer on conversations, with the loss on the replies and their end token."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from alignment.data.arguments import DataArguments
from alignment.data.tokenizing.encoding import training_template
from alignment.data.tokenizing.reply_rows import training_rows
from alignment.data.tokenizing.tokens import tokenize_documents
from alignment.errors import UserError, raise_all
from alignment.models.checkpoints import is_adapter
from alignment.models.loading import load_tokenizer
from alignment.models.packed_documents import require_documents_apart
from alignment.models.speed import speed_up
from alignment.models.vocabulary import start_as
from alignment.stages import CAUSAL_LM, STAGES
from alignment.stages.keys.start_tokens import check_start_tokens, log_start, texts_to_start
from alignment.stages.keys.trainer_keys import untaken
from alignment.stages.self_check.loss_checks import check_language_model_loss, tokens_shown
from alignment.stages.self_check.policy_checks import starts_from
from alignment.stages.shared.defaults import SpeedLevers
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.inputs import (
    account_for_tokens,
    load_data,
    loading_options,
    record_tokens,
    refusals_named,
    require_context,
)
from alignment.stages.shared.lora import (
    ModelArguments,
    adapt_trainer,
    adapter_in_32_bit,
    check_adapter,
    expose_head_bias,
    starting_point,
)
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.stage_keys import StageKeys
from alignment.stages.shared.stage_run import StageRun
from alignment.tokenization.base import Changes, make_chat_ready
from alignment.tokenization.chat_format import chat_eos_ids, require_template, require_usable_template

logger = logging.getLogger(__name__)

PARENTS = {"model_name_or_path": CAUSAL_LM}


@dataclass
class SFTRecipe(StageKeys, SpeedLevers, SFTConfig):
    """TRL's `SFTConfig`, with the loss on the replies alone by default."""

    assistant_only_loss: bool = field(
        default=True, metadata={"help": "Compute the loss on replies and their end tokens, not on prompts."}
    )
    replay_dataset_name: str | None = field(
        default=None,
        metadata={"help": "Pretraining text to train on as well, so that the model forgets less."},
    )
    replay_ratio: float = field(default=1.0, metadata={"help": "Documents of replay_dataset_name per conversation."})
    start_tokens_as: dict | None = field(
        default=None,
        metadata={
            "help": "Token of the chat template -> a text: the token's embedding starts as the mean of the text's. For "
            "turn markers that pretraining never showed."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        errors = []
        if self.replay_dataset_name and self.packing:
            errors.append(
                UserError(
                    "replay_dataset_name and packing exclude each other",
                    fix="packing: false (train_sampling_strategy: group_by_length saves most of the padding too)",
                )
            )
        if not isinstance(self.start_tokens_as, dict | None):
            expected = 'token: text, such as {"<|user|>": "Question:"}'
            errors.append(UserError("start_tokens_as is no mapping", got=self.start_tokens_as, expected=expected))
        raise_all(errors)


CONFIGS = (SFTRecipe, DataArguments, ModelArguments)


def check(args: SFTRecipe, data: DataArguments, model_args: ModelArguments) -> None:
    check_adapter(model_args, "sft")
    if is_adapter(model_args.model_name_or_path):  # the tokenizer of a full model is given a template
        require_template(model_args.model_name_or_path, args.chat_template_path)
    require_context(model_args.model_name_or_path, args.max_length)
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    changes = make_chat_ready(tokenizer, args.chat_template_path, args.pad_token)
    require_usable_template(tokenizer)
    training_template(tokenizer, args.assistant_only_loss)
    texts = texts_to_start(args.start_tokens_as, model_args.model_name_or_path, changes.new_tokens)
    check_start_tokens(texts, model_args.model_name_or_path, tokenizer, model_args.use_peft)
    if args.packing and args.packing_strategy == "wrapped":
        logger.warning(
            "packing_strategy: wrapped cuts conversations anywhere and lets them attend to each other; bfd does not"
        )
    elif args.packing or args.padding_free:
        require_documents_apart(model_args.model_name_or_path, fix="packing: false, and padding_free: false")


def run(
    args: SFTRecipe, data: DataArguments, model_args: ModelArguments, callbacks: Sequence[TrainerCallback] = ()
) -> StageResult:
    parent = model_args.model_name_or_path
    stage = StageRun("sft", args, callbacks)
    trainer, conversations, texts = make_trainer(args, data, model_args, stage.folder, *stage.callbacks)
    checks = [starts_from(parent), check_language_model_loss, tokens_shown(conversations)]
    evaluated = ["eval_loss", "eval_mean_token_accuracy"]
    start = partial(start_as, tokenizer=trainer.processing_class, texts=texts) if texts else None
    metrics = stage.train(trainer, checks, logged=["mean_token_accuracy"], evaluated=evaluated, start=start)
    return stage.finish(trainer, {"model_name_or_path": parent}, data, metrics)


def make_trainer(
    args: SFTRecipe, data: DataArguments, model_args: ModelArguments, stage_dir: Path, *callbacks: TrainerCallback
) -> tuple[SFTTrainer, Dataset, dict[str, str]]:
    """Return TRL's trainer with model, tokenizer and rows; the training conversations; and the tokens that are to start
    as texts (`start_as`) before the first step."""
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    changes = prepare_tokenizer(tokenizer, args, model_args.model_name_or_path)
    texts = texts_to_start(args.start_tokens_as, model_args.model_name_or_path, changes.new_tokens)
    log_start(args.start_tokens_as, texts, model_args.model_name_or_path, new_template=bool(changes.said))
    rows = len(tokenizer) if changes.new_tokens else 0
    start_from = starting_point(model_args, loading_options(model_args), tokenizer, CAUSAL_LM, stage_dir, rows)
    speed_up(start_from.model, args)
    splits = load_data(data, STAGES["sft"].data, args.seed, stage_dir).select_columns(["messages"])
    with adapter_in_32_bit(start_from.model), untaken("TRL's trainer"), refusals_named("sft", splits, tokenizer):
        given = rows_of_replies(splits, tokenizer, args.assistant_only_loss, stage_dir)
        trainer = SFTTrainer(
            model=start_from.model,
            args=args,
            train_dataset=given["train"],
            eval_dataset=given.get("validation"),
            processing_class=tokenizer,
            peft_config=start_from.peft_config,
            callbacks=[*callbacks, *start_from.callbacks],
        )
    account_for_tokens(trainer, given, "sft", f"have no token to learn within max_length {args.max_length}", stage_dir)
    if not changes.said:
        require_inherited(trainer.processing_class, model_args.model_name_or_path, args)
    if args.router_aux_loss_coef == 0 and hasattr(trainer.model.config, "router_z_loss_coef"):
        # TRL turned the balance loss off in the config, and GPTConfig refuses to save the z-loss without it.
        trainer.model.config.router_z_loss_coef = 0.0
    expose_head_bias(trainer.model)
    adapt_trainer(trainer, model_args)
    if args.replay_dataset_name:
        trainer.train_dataset = with_replay(trainer.train_dataset, args, data, tokenizer, stage_dir)
    # Generation has to stop at the end of a reply, not only at the end of a document.
    trainer.model.generation_config.eos_token_id = chat_eos_ids(tokenizer)
    trainer.model.generation_config.pad_token_id = tokenizer.pad_token_id
    return trainer, splits["train"], texts


def rows_of_replies(
    splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, replies_only: bool, stage_dir: Path
) -> dict[str, Dataset]:
    """Return the rows for TRL: conversations, or if the template changes earlier turns, a tokenized row per reply."""
    template, marks = training_template(tokenizer, replies_only)
    if not marks:
        return dict(splits)
    rows, counts = {}, {}
    for name, conversations in splits.items():
        with PartialState().main_process_first():  # the other processes read the rows from the cache
            rows[name] = training_rows(conversations, tokenizer, template)
        if rows[name] is not conversations:
            counts[name] = {"conversations": len(conversations), "rows": len(rows[name])}
            logger.info(
                "%s: %d conversations become %d rows, a row per reply: the chat template writes earlier turns "
                "differently once there are later ones",
                *(name, len(conversations), len(rows[name])),
            )
    record_tokens(stage_dir, counts)
    return rows


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, args: SFTRecipe, checkpoint: str) -> Changes:
    """Give a base model's tokenizer the chat template and the tokens that conversations need.

    Replaces TRL's handling of `chat_template_path`, which grows the embeddings silently and trains only the new rows of
    the input layer.
    """
    changes = make_chat_ready(tokenizer, args.chat_template_path, args.pad_token)
    args.chat_template_path = None
    for change in changes.said:
        logger.info("the tokenizer of %s: %s", checkpoint, change)
    return changes


def with_replay(
    conversations: Dataset,
    args: SFTRecipe,
    data: DataArguments,
    tokenizer: PreTrainedTokenizerBase,
    stage_dir: Path,
) -> Dataset:
    """Return the tokenized conversations with `replay_ratio` documents per conversation, whose every token is trained.

    Fine-tuning a small model on replies alone makes it forget its pretraining; some of the old data prevents that
    (Ouyang et al. 2022, PPO-ptx; Ibrahim et al. 2024, arXiv 2403.08763). The documents are
    decontaminated against the same eval suites.
    """
    conversations = conversations.select_columns(["input_ids", "labels"])
    wanted = round(args.replay_ratio * len(conversations))
    replayed = DataArguments(
        args.replay_dataset_name,
        max_train_samples=wanted,
        decontaminate=data.decontaminate,
        decontaminate_ngram=data.decontaminate_ngram,
    )
    texts = load_data(replayed, "text", args.seed, stage_dir, account="data-replay.json")["train"]
    ids = [document[: args.max_length].tolist() for document in tokenize_documents(texts, tokenizer)]
    replay = Dataset.from_dict({"input_ids": ids, "labels": ids}, features=conversations.features)
    logger.info("%d conversations, and %d documents of %s", len(conversations), len(ids), args.replay_dataset_name)
    return concatenate_datasets([conversations, replay])
