"""The DPO stage: TRL's DPOTrainer on preference pairs, against the SFT model as it was."""

from dataclasses import dataclass

from trl import DPOConfig, DPOTrainer, ModelConfig

from alignment.data.arguments import DataArguments
from alignment.models.checkpoints import is_adapter
from alignment.models.loading import load_tokenizer, load_trainable
from alignment.stages.adapters import complete_reference, expose_head_bias, new_adapter
from alignment.stages.checkpoints import Resumable
from alignment.stages.common import (
    StageResult,
    count_parameters,
    finish,
    load_data,
    loading_options,
    require_context,
    start,
    train,
)
from alignment.stages.defaults import HardwareDefaults
from alignment.stages.faults import Guarded
from alignment.stages.inherited import require_inherited
from alignment.tokenization.chat import require_template

PARENTS = {"model_name_or_path": "causal-lm"}
DATA_KIND = "preference"


@dataclass
class DPORecipe(HardwareDefaults, Resumable, Guarded, DPOConfig):
    """TRL's `DPOConfig`."""


CONFIGS = (DPORecipe, DataArguments, ModelConfig)


def check(args: DPORecipe, data: DataArguments, model_args: ModelConfig) -> None:
    require_template(model_args.model_name_or_path)
    require_context(model_args.model_name_or_path, args.max_length)


def run(args: DPORecipe, data: DataArguments, model_args: ModelConfig) -> StageResult:
    stage_dir, callbacks, clock = start(args)
    checkpoint = model_args.model_name_or_path
    tokenizer = load_tokenizer(checkpoint)
    options = loading_options(model_args)
    model = load_trainable(checkpoint, "causal-lm", **options)
    splits = load_data(data, DATA_KIND, args.seed, stage_dir)
    splits = splits.select_columns(["prompt", "chosen", "rejected"])
    # With an adapter the reference is inside the model: its base, or a frozen copy of the adapter it started from.
    has_adapter = model_args.use_peft or is_adapter(checkpoint)
    reference = None if has_adapter else load_trainable(checkpoint, "causal-lm", **options)
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        peft_config=new_adapter(model, model_args, tokenizer, "causal-lm"),
        callbacks=callbacks,
    )
    expose_head_bias(trainer.model)
    complete_reference(trainer.model)
    require_inherited(trainer.processing_class, checkpoint, args)
    counted = count_parameters(trainer.model)
    tokens, metrics = train(trainer, evaluated=["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"])
    return finish(
        trainer,
        stage_dir,
        clock,
        method="dpo",
        parents={"model_name_or_path": checkpoint},
        data=data.title,
        counted=counted,
        tokens=tokens,
        metrics=metrics,
    )
