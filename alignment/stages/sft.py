"""The SFT stage: TRL's SFTTrainer on conversations, with the loss on the replies and their end token."""

import logging
from dataclasses import dataclass, field

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase
from trl import ModelConfig, SFTConfig, SFTTrainer

from alignment.data.arguments import DataArguments
from alignment.data.load import load_splits
from alignment.data.packing import tokenize_documents
from alignment.errors import UserError
from alignment.models.loading import load_tokenizer, load_trainable
from alignment.stages.adapters import expose_head_bias, new_adapter
from alignment.stages.common import (
    StageResult,
    count_parameters,
    finish,
    loading_options,
    require_context,
    start,
    train,
)
from alignment.stages.defaults import HardwareDefaults
from alignment.tokenization.chat import chat_eos_ids, require_template

logger = logging.getLogger(__name__)

PARENTS = {"model_name_or_path": "causal-lm"}
DATA_KIND = "sft"


@dataclass
class SFTRecipe(HardwareDefaults, SFTConfig):
    """TRL's `SFTConfig`, learning from the replies alone unless told otherwise."""

    assistant_only_loss: bool = field(default=True, metadata={"help": "Learn the replies and their ends, no prompts."})
    replay_dataset_name: str | None = field(
        default=None,
        metadata={"help": "Pretraining text to go on learning from, so that the model forgets less of it."},
    )
    replay_ratio: float = field(default=1.0, metadata={"help": "Documents of the replay for each conversation."})

    def __post_init__(self):
        super().__post_init__()
        if self.replay_dataset_name and self.packing:
            raise UserError(
                "replay_dataset_name and packing exclude each other",
                mend="packing: false (train_sampling_strategy: group_by_length saves most of the padding too)",
            )


CONFIGS = (SFTRecipe, DataArguments, ModelConfig)


def check(args: SFTRecipe, data: DataArguments, model_args: ModelConfig) -> None:
    require_template(model_args.model_name_or_path, args.chat_template_path)
    require_context(model_args.model_name_or_path, args.max_length)


def run(args: SFTRecipe, data: DataArguments, model_args: ModelConfig) -> StageResult:
    stage_dir, writer, clock = start(args)
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    model = load_trainable(model_args.model_name_or_path, "causal-lm", **loading_options(model_args))
    splits = load_splits(data, DATA_KIND, args.seed).select_columns(["messages"])
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        peft_config=new_adapter(model, model_args, tokenizer, "causal-lm"),
        callbacks=[writer],
    )
    expose_head_bias(trainer.model)
    if args.replay_dataset_name:
        trainer.train_dataset = with_replay(trainer.train_dataset, args, tokenizer)
    # Generation has to stop where a reply ends, not only where a document does.
    trainer.model.generation_config.eos_token_id = chat_eos_ids(tokenizer)
    counted = count_parameters(trainer.model)
    tokens, metrics = train(trainer, ["mean_token_accuracy"], ["eval_loss", "eval_mean_token_accuracy"])
    parents = {"model_name_or_path": model_args.model_name_or_path}
    return finish(
        trainer,
        stage_dir,
        clock,
        method="sft",
        parents=parents,
        data=data.dataset_name,
        counted=counted,
        tokens=tokens,
        metrics=metrics,
    )


def with_replay(conversations: Dataset, args: SFTRecipe, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The trainer's tokenized conversations and, for each, `replay_ratio` documents, learned in full.

    Fine-tuning a small model on replies alone overwrites what pretraining put in; going on with some of the old data
    keeps it (Ouyang et al. 2022, PPO-ptx; Ibrahim et al. 2024, arXiv 2403.08763).
    """
    conversations = conversations.select_columns(["input_ids", "labels"])
    wanted = round(args.replay_ratio * len(conversations))
    texts = load_splits(DataArguments(args.replay_dataset_name, max_train_samples=wanted), "text", args.seed)["train"]
    ids = [document[: args.max_length].tolist() for document in tokenize_documents(texts, tokenizer)]
    replay = Dataset.from_dict({"input_ids": ids, "labels": ids}, features=conversations.features)
    logger.info("%d conversations, and %d documents of %s", len(conversations), len(ids), args.replay_dataset_name)
    return concatenate_datasets([conversations, replay])
