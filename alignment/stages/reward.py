"""The reward stage: TRL's RewardTrainer on preference pairs, and a card of how well the model ranks held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import TrainerCallback
from trl import RewardConfig, RewardTrainer

from alignment.callbacks.out_of_memory import Guarded
from alignment.callbacks.step_checkpoints import Resumable
from alignment.data.arguments import DataArguments
from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from alignment.models.speed import speed_up
from alignment.stages.self_check.loss_checks import check_preference_loss, pairs_shown
from alignment.stages.self_check.prove import SelfChecked, self_check
from alignment.stages.shared.defaults import HardwareDefaults, SpeedLevers
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.lora import ModelArguments, adapt_trainer, adapter_in_32_bit, check_adapter, starting_point
from alignment.stages.shared.stage_run import (
    StageResult,
    count_parameters,
    finish,
    load_data,
    loading_options,
    require_context,
    start,
    train,
)
from alignment.tokenization.chat_format import require_template
from alignment.trainers.pair_lengths import group_pairs_by_length
from reward_models.card.pairwise import GOLD_COLUMNS, judge_pairs
from reward_models.learned import LearnedReward

PARENTS = {"model_name_or_path": "causal-lm"}
DATA_KIND = "preference"
PAIR = ["prompt", "chosen", "rejected"]


@dataclass
class RewardArguments(DataArguments):
    """Which pairs the reward model learns from, and which it is judged on."""

    dataset_card_split: str | None = field(
        default=None, metadata={"help": "The split that the finished model is judged on; default: the validation rows."}
    )
    card_min_gap: float = field(
        default=0.1, metadata={"help": "Where gold rewards are known, pairs closer than this are not judged."}
    )
    card_subset: str | None = field(
        default=None, metadata={"help": "A column of the pairs: the card tells the accuracy for each of its values."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.dataset_card_split and self.datasets is not None:
            raise UserError(
                "dataset_card_split belongs to dataset_name",
                got="datasets",
                fix="leave it out: the model is judged on the validation rows of every source",
            )
        if self.dataset_card_split == self.dataset_train_split:
            raise UserError(
                "the reward model would be judged on what it trains on",
                got=f"the split {self.dataset_card_split} for both",
                expected="two different splits",
            )


@dataclass
class RewardRecipe(HardwareDefaults, SpeedLevers, Resumable, Guarded, SelfChecked, RewardConfig):
    """TRL's `RewardConfig`."""


CONFIGS = (RewardRecipe, RewardArguments, ModelArguments)


def check(args: RewardRecipe, data: RewardArguments, model_args: ModelArguments) -> None:
    check_adapter(model_args, "reward")
    require_template(model_args.model_name_or_path, args.chat_template_path)
    require_context(model_args.model_name_or_path, args.max_length)


def run(
    args: RewardRecipe, data: RewardArguments, model_args: ModelArguments, callbacks: Sequence[TrainerCallback] = ()
) -> StageResult:
    stage_dir, own, clock = start(args)
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    options = loading_options(model_args)
    start_from = starting_point(model_args, options, tokenizer, "sequence-classification", stage_dir)
    speed_up(start_from.model, args)
    start_from.model.config.pad_token_id = tokenizer.pad_token_id
    held_out = {"card": data.dataset_card_split} if data.dataset_card_split else {}
    keep = [*GOLD_COLUMNS, *([data.card_subset] if data.card_subset else [])]
    splits = load_data(data, DATA_KIND, args.seed, stage_dir, keep=keep, held_out=held_out)
    judged = splits.get("card", splits.get("validation"))
    if judged is not None and data.card_subset and data.card_subset not in judged.column_names:
        raise UserError(
            f"the pairs have no column {data.card_subset}",
            got=", ".join(judged.column_names),
            fix="correct card_subset",
        )
    with adapter_in_32_bit(start_from.model):
        trainer = RewardTrainer(
            model=start_from.model,
            args=args,
            train_dataset=splits["train"].select_columns(PAIR),
            eval_dataset=splits["validation"].select_columns(PAIR) if "validation" in splits else None,
            processing_class=tokenizer,
            peft_config=start_from.peft_config,
            callbacks=[*own, *start_from.callbacks, *callbacks],
        )
    adapt_trainer(trainer, model_args)
    group_pairs_by_length(trainer)
    require_inherited(trainer.processing_class, model_args.model_name_or_path, args)
    counted = count_parameters(trainer.model)
    checked = self_check(trainer, [check_preference_loss, pairs_shown(splits["train"])])
    tokens, metrics = train(trainer, evaluated=["eval_loss", "eval_accuracy"])
    if judged is not None:
        reward = LearnedReward(trainer.model, tokenizer, "reward", args.per_device_eval_batch_size)
        metrics["pairwise"] = judge_pairs(reward, judged, data.card_min_gap, data.card_subset)
    return finish(
        trainer,
        stage_dir,
        clock,
        method="reward",
        parents={"model_name_or_path": model_args.model_name_or_path},
        data=data.title,
        counted=counted,
        tokens=tokens,
        metrics=metrics,
        self_check=checked,
    )
