"""The DPO stage: TRL's DPOTrainer on preference pairs, with the parent as reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from alignment.data.arguments import DataArguments
from alignment.models.loading import load_tokenizer
from alignment.stages import CAUSAL_LM, STAGES
from alignment.stages.keys.label_column import SoftLabelKeys, require_plain_loss, trained_pairs
from alignment.stages.self_check.loss_checks import check_starts_at_reference
from alignment.stages.self_check.policy_checks import starts_from
from alignment.stages.shared.defaults import SpeedLevers
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.inputs import (
    account_for_tokens,
    load_data,
    record_labels,
    refusals_named,
    require_context,
)
from alignment.stages.shared.lora import ModelArguments, check_adapter
from alignment.stages.shared.reference import trainer_with_reference
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.stage_keys import StageKeys
from alignment.stages.shared.stage_run import StageRun
from alignment.tokenization.chat_format import require_template
from alignment.trainers.pair_lengths import group_pairs_by_length
from alignment.trainers.soft_labels import SoftDPOTrainer, collate_probabilities

PARENTS = {"model_name_or_path": CAUSAL_LM}


@dataclass
class DPORecipe(SoftLabelKeys, StageKeys, SpeedLevers, DPOConfig):
    """TRL's `DPOConfig`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_plain_loss(self)


CONFIGS = (DPORecipe, DataArguments, ModelArguments)


def check(args: DPORecipe, data: DataArguments, model_args: ModelArguments) -> None:
    check_adapter(model_args, "dpo")
    require_template(model_args.model_name_or_path)
    require_context(model_args.model_name_or_path, args.max_length)


def run(
    args: DPORecipe, data: DataArguments, model_args: ModelArguments, callbacks: Sequence[TrainerCallback] = ()
) -> StageResult:
    parent = model_args.model_name_or_path
    stage = StageRun("dpo", args, callbacks)
    trainer = make_trainer(args, data, model_args, stage.folder, *stage.callbacks)
    require_inherited(trainer.processing_class, parent, args)
    evaluated = ["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"]
    metrics = stage.train(trainer, [starts_from(parent), check_starts_at_reference], evaluated=evaluated)
    return stage.finish(trainer, {"model_name_or_path": parent}, data, metrics)


def make_trainer(
    args: DPORecipe, data: DataArguments, model_args: ModelArguments, stage_dir: Path, *callbacks: TrainerCallback
) -> DPOTrainer:
    """Return TRL's trainer with policy, reference, tokenizer and pairs, ready to train."""
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    keep = [args.label_column] if args.label_column else []
    splits = trained_pairs(load_data(data, STAGES["dpo"].data, args.seed, stage_dir, keep=keep), args.label_column)
    kind = SoftDPOTrainer if args.label_column else DPOTrainer
    with refusals_named("preference", splits, tokenizer):
        trainer = trainer_with_reference(kind, args, model_args, splits, tokenizer, stage_dir, callbacks)
    account_for_tokens(
        trainer, splits, "preference", f"have a prompt that fills max_length {args.max_length}", stage_dir
    )
    group_pairs_by_length(trainer)
    if args.label_column:
        record_labels(stage_dir, args.label_column)
        collate_probabilities(trainer)
    return trainer
