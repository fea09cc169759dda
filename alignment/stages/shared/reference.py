"""A policy and its reference in TRL's offline trainers (DPO, KTO)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from alignment.models.loading import load_trainable
from alignment.models.speed import speed_up
from alignment.stages import CAUSAL_LM
from alignment.stages.keys.trainer_keys import untaken
from alignment.stages.shared.inputs import loading_options
from alignment.stages.shared.lora import (
    ModelArguments,
    adapt_trainer,
    adapter_in_32_bit,
    complete_reference,
    expose_head_bias,
    starting_point,
)


def trainer_with_reference(
    trainer_class: type[Trainer],
    args: Any,
    model_args: ModelArguments,
    splits: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    stage_dir: Path,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    """Return one of TRL's trainers with policy and reference, ready to train.

    If the policy is an adapter, its reference is inside the model (the base, or a frozen copy of the adapter that it
    started from), unless it is the parent's stack of adapters. Otherwise it is a second copy of the parent.

    Args:
        trainer_class: takes `model`, `ref_model`, `args`, datasets, `processing_class`, `peft_config`, `callbacks`.
        args: the trainer's arguments, with the keys of StageKeys and SpeedLevers.
    """
    checkpoint, options = model_args.model_name_or_path, loading_options(model_args)
    start_from = starting_point(model_args, options, tokenizer, CAUSAL_LM, stage_dir)
    reference = start_from.reference
    if reference is None and not isinstance(start_from.model, PeftModel) and start_from.peft_config is None:
        reference = load_trainable(checkpoint, CAUSAL_LM, **options)
    for model in filter(None, (start_from.model, reference)):
        speed_up(model, args)
    with adapter_in_32_bit(start_from.model), untaken("TRL's trainer"):
        trainer = trainer_class(
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
    return trainer
