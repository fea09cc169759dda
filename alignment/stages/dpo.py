"""The DPO stage: TRL's DPOTrainer on preference pairs, against the SFT model as it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from alignment.callbacks.out_of_memory import Guarded
from alignment.callbacks.step_checkpoints import Resumable
from alignment.data.arguments import DataArguments
from alignment.models.loading import load_tokenizer, load_trainable
from alignment.models.speed import speed_up
from alignment.stages.self_check.loss_checks import check_no_margin
from alignment.stages.self_check.policy_checks import starts_from
from alignment.stages.self_check.prove import SelfChecked, self_check
from alignment.stages.shared.defaults import HardwareDefaults, SpeedLevers
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.lora import (
    ModelArguments,
    adapt_trainer,
    adapter_in_32_bit,
    check_adapter,
    complete_reference,
    expose_head_bias,
    starting_point,
)
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

PARENTS = {"model_name_or_path": "causal-lm"}
DATA_KIND = "preference"


@dataclass
class DPORecipe(HardwareDefaults, SpeedLevers, Resumable, Guarded, SelfChecked, DPOConfig):
    """TRL's `DPOConfig`."""


CONFIGS = (DPORecipe, DataArguments, ModelArguments)


def check(args: DPORecipe, data: DataArguments, model_args: ModelArguments) -> None:
    check_adapter(model_args, "dpo")
    require_template(model_args.model_name_or_path)
    require_context(model_args.model_name_or_path, args.max_length)


def run(
    args: DPORecipe, data: DataArguments, model_args: ModelArguments, callbacks: Sequence[TrainerCallback] = ()
) -> StageResult:
    stage_dir, own, clock = start(args)
    trainer = make_trainer(args, data, model_args, stage_dir, *own, *callbacks)
    require_inherited(trainer.processing_class, model_args.model_name_or_path, args)
    counted = count_parameters(trainer.model)
    checked = self_check(trainer, [starts_from(model_args.model_name_or_path), check_no_margin])
    tokens, metrics = train(trainer, evaluated=["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"])
    return finish(
        trainer,
        stage_dir,
        clock,
        method="dpo",
        parents={"model_name_or_path": model_args.model_name_or_path},
        data=data.title,
        counted=counted,
        tokens=tokens,
        metrics=metrics,
        self_check=checked,
    )


def make_trainer(
    args: DPORecipe, data: DataArguments, model_args: ModelArguments, stage_dir: Path, *callbacks: TrainerCallback
) -> DPOTrainer:
    """TRL's trainer with policy, reference, tokenizer and pairs, ready to train."""
    checkpoint, options = model_args.model_name_or_path, loading_options(model_args)
    tokenizer = load_tokenizer(checkpoint)
    start_from = starting_point(model_args, options, tokenizer, "causal-lm", stage_dir)
    splits = load_data(data, DATA_KIND, args.seed, stage_dir)
    splits = splits.select_columns(["prompt", "chosen", "rejected"])
    # With an adapter the reference is inside the model (its base, or a frozen copy of the adapter it started from),
    # unless it is the parent's stack.
    reference = start_from.reference
    if reference is None and not isinstance(start_from.model, PeftModel) and start_from.peft_config is None:
        reference = load_trainable(checkpoint, "causal-lm", **options)
    for model in filter(None, (start_from.model, reference)):
        speed_up(model, args)
    with adapter_in_32_bit(start_from.model):
        trainer = DPOTrainer(
            model=start_from.model,
            ref_model=reference,
            args=args,
            train_dataset=splits["train"],
            eval_dataset=splits.get("validation"),
            processing_class=tokenizer,
            peft_config=start_from.peft_config,
            callbacks=[*callbacks, *start_from.callbacks],
        )
    for model in filter(None, (trainer.model, trainer.ref_model)):
        expose_head_bias(model)
    complete_reference(trainer.model)
    adapt_trainer(trainer, model_args)
    group_pairs_by_length(trainer)
    return trainer
