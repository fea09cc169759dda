"""The reward stage: TRL's RewardTrainer on preference pairs, and a reward card on held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict
from transformers import TrainerCallback
from trl import RewardConfig, RewardTrainer

from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from alignment.models.speed import speed_up
from alignment.stages import CAUSAL_LM, CLASSIFIER, STAGES
from alignment.stages.keys.trainer_keys import untaken
from alignment.stages.self_check.loss_checks import check_reward_loss, pairs_shown
from alignment.stages.shared.defaults import SpeedLevers
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.inputs import load_data, loading_options, require_context
from alignment.stages.shared.lora import ModelArguments, adapt_trainer, adapter_in_32_bit, check_adapter, starting_point
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.stage_keys import StageKeys
from alignment.stages.shared.stage_run import StageRun
from alignment.tokenization.chat_format import require_template
from alignment.trainers.pair_lengths import group_pairs_by_length
from reward_models.card.pairwise import GOLD_COLUMNS, judge_pairs
from reward_models.learned import LearnedReward

PARENTS = {"model_name_or_path": CAUSAL_LM}
PAIR = ["prompt", "chosen", "rejected"]


@dataclass
class RewardArguments(DataArguments):
    """The pairs that the reward model is trained and evaluated on."""

    dataset_card_split: str | None = field(
        default=None, metadata={"help": "The split for the reward card; default: the validation rows."}
    )
    card_min_gap: float = field(
        default=0.1, metadata={"help": "Least difference of gold rewards: closer pairs are left out of the card."}
    )
    card_subset: str | None = field(
        default=None, metadata={"help": "A column of the pairs: the card shows the accuracy for each of its values."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.dataset_card_split and self.datasets is not None:
            raise UserError(
                "dataset_card_split belongs to dataset_name",
                got="datasets",
                fix="leave it out: the card is made on the validation rows of every source",
            )
        if self.dataset_card_split == self.dataset_train_split:
            raise UserError(
                "the reward card would be made on the training rows",
                got=f"the split {self.dataset_card_split} for both",
                expected="two different splits",
            )


@dataclass
class RewardRecipe(StageKeys, SpeedLevers, RewardConfig):
    """TRL's `RewardConfig`."""


CONFIGS = (RewardRecipe, RewardArguments, ModelArguments)


def check(args: RewardRecipe, data: RewardArguments, model_args: ModelArguments) -> None:
    check_adapter(model_args, "reward")
    require_template(model_args.model_name_or_path, args.chat_template_path)
    require_context(model_args.model_name_or_path, args.max_length)


def run(
    args: RewardRecipe, data: RewardArguments, model_args: ModelArguments, callbacks: Sequence[TrainerCallback] = ()
) -> StageResult:
    parent = model_args.model_name_or_path
    stage = StageRun("reward", args, callbacks)
    trainer, splits = make_trainer(args, data, model_args, stage.folder, *stage.callbacks)
    require_inherited(trainer.processing_class, parent, args)
    checks = [check_reward_loss, pairs_shown(splits["train"])]
    metrics = stage.train(trainer, checks, evaluated=["eval_loss", "eval_accuracy"])
    judged = card_pairs(splits)
    if judged is not None:
        reward = LearnedReward(trainer.model, trainer.processing_class, "reward", args.per_device_eval_batch_size)
        metrics["pairwise"] = judge_pairs(reward, judged, data.card_min_gap, data.card_subset)
    return stage.finish(trainer, {"model_name_or_path": parent}, data.title, metrics)


def card_pairs(splits: DatasetDict) -> Dataset | None:
    """Return the pairs of the reward card: a split of their own, or the validation rows."""
    return splits.get("card", splits.get("validation"))


def make_trainer(
    args: RewardRecipe, data: RewardArguments, model_args: ModelArguments, stage_dir: Path, *callbacks: TrainerCallback
) -> tuple[RewardTrainer, DatasetDict]:
    """Return TRL's trainer with model, tokenizer and pairs, ready to train; and the splits of the data."""
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    start_from = starting_point(model_args, loading_options(model_args), tokenizer, CLASSIFIER, stage_dir)
    speed_up(start_from.model, args)
    start_from.model.config.pad_token_id = tokenizer.pad_token_id
    held_out = {"card": data.dataset_card_split} if data.dataset_card_split else {}
    keep = [*GOLD_COLUMNS, *([data.card_subset] if data.card_subset else [])]
    splits = load_data(data, STAGES["reward"].data, args.seed, stage_dir, keep=keep, held_out=held_out)
    judged = card_pairs(splits)
    if judged is not None and data.card_subset and data.card_subset not in judged.column_names:
        raise UserError(
            f"the pairs have no column {data.card_subset}",
            got=", ".join(judged.column_names),
            fix="correct card_subset",
        )
    with adapter_in_32_bit(start_from.model), untaken("TRL's trainer"):
        trainer = RewardTrainer(
            model=start_from.model,
            args=args,
            train_dataset=splits["train"].select_columns(PAIR),
            eval_dataset=splits["validation"].select_columns(PAIR) if "validation" in splits else None,
            processing_class=tokenizer,
            peft_config=start_from.peft_config,
            callbacks=[*callbacks, *start_from.callbacks],
        )
    adapt_trainer(trainer, model_args)
    group_pairs_by_length(trainer)
    return trainer, splits
