"""The reward stage: TRL's RewardTrainer on preference pairs, and a reward card on held-out pairs."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict, Value
from transformers import TrainerCallback
from trl import RewardConfig, RewardTrainer

from alignment.data.arguments import DataArguments
from alignment.data.reading.row_formats import MARGIN
from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from alignment.models.speed import speed_up
from alignment.stages import CAUSAL_LM, CLASSIFIER, STAGES
from alignment.stages.keys.label_column import SoftLabelKeys, trained_pairs
from alignment.stages.keys.trainer_keys import untaken
from alignment.stages.self_check.loss_checks import check_reward_loss, pairs_shown
from alignment.stages.shared.defaults import SpeedLevers
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.inputs import (
    account_for_tokens,
    load_data,
    loading_options,
    record_labels,
    refusals_named,
    require_context,
)
from alignment.stages.shared.lora import ModelArguments, adapt_trainer, adapter_in_32_bit, check_adapter, starting_point
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.stage_keys import StageKeys
from alignment.stages.shared.stage_run import StageRun
from alignment.tokenization.chat_format import require_template
from alignment.trainers.pair_lengths import group_pairs_by_length
from alignment.trainers.soft_labels import SoftRewardTrainer, collate_probabilities
from reward_models.card.gold_scores import GOLD_COLUMNS, require_card_columns
from reward_models.card.pairwise import judge_pairs
from reward_models.learned import LearnedReward
from reward_models.returned import LARGEST

PARENTS = {"model_name_or_path": CAUSAL_LM}

logger = logging.getLogger(__name__)


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
class RewardRecipe(SoftLabelKeys, StageKeys, SpeedLevers, RewardConfig):
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
    return stage.finish(trainer, {"model_name_or_path": parent}, data, metrics)


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
    keep = [*GOLD_COLUMNS, MARGIN, *filter(None, dict.fromkeys([data.card_subset, args.label_column]))]
    splits = load_data(data, STAGES["reward"].data, args.seed, stage_dir, keep=keep, held_out=held_out)
    splits = DatasetDict({name: with_numeric_margins(rows, name) for name, rows in splits.items()})
    judged = card_pairs(splits)
    if judged is not None:
        require_card_columns(judged, data.card_subset, "card_subset")  # the card is made after training
    read = DatasetDict({name: splits[name] for name in ("train", "validation") if name in splits})
    pairs = trained_pairs(read, args.label_column, MARGIN)
    with adapter_in_32_bit(start_from.model), untaken("TRL's trainer"), refusals_named("preference", pairs, tokenizer):
        trainer = (SoftRewardTrainer if args.label_column else RewardTrainer)(
            model=start_from.model,
            args=args,
            train_dataset=pairs["train"],
            eval_dataset=pairs.get("validation"),
            processing_class=tokenizer,
            peft_config=start_from.peft_config,
            callbacks=[*callbacks, *start_from.callbacks],
        )
    account_for_tokens(trainer, pairs, "preference", f"are longer than max_length {args.max_length}", stage_dir)
    adapt_trainer(trainer, model_args)
    group_pairs_by_length(trainer)
    if args.label_column:
        record_labels(stage_dir, args.label_column)
        collate_probabilities(trainer)
    return trainer, splits


def with_numeric_margins(pairs: Dataset, split: str) -> Dataset:
    """Return the pairs with their margins, if they have any, as numbers.

    TRL's loss of a pair is -log sigmoid(chosen - rejected - margin), after Llama 2 (arXiv:2307.09288).

    Raises:
        UserError: some margins are missing or not finite.
    """
    if MARGIN not in pairs.column_names:
        return pairs
    margins = [_number(value) for value in pairs[MARGIN]]
    wrong = [place for place, margin in enumerate(margins) if not abs(margin) <= LARGEST]
    if wrong:
        raise UserError(
            "pairs have no number as margin, which the loss of a reward model reads",
            got=f"{len(wrong)} of {len(margins)} pairs of the {split} split, the first {pairs[MARGIN][wrong[0]]!r}",
            expected="a finite number in every pair, or no column `margin`",
            fix="fill in the numbers, or leave the column out: columns: {margin: data_margin}",
        )
    logger.info("%s: the loss reads the column `margin`: -log sigmoid(chosen - rejected - margin)", split)
    return pairs.remove_columns(MARGIN).add_column(MARGIN, margins, feature=Value("float64"))


def _number(value: object) -> float:
    """Return a value as a number; NaN if it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
