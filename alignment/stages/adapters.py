"""LoRA in the stages: which adapter is trained, on what it sits, and what it is measured against."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import ModelConfig, get_peft_config

from alignment.errors import UserError
from alignment.models.adapters import copy_adapter, frozen_copy, put_on_top, run_under
from alignment.models.checkpoints import is_adapter
from alignment.models.loading import REFERENCE_ADAPTER, load_stack, load_trainable
from alignment.models.merging import merge_once
from alignment.models.vocabulary import make_room, trained_rows

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


def check_adapter_mode(model_args: ModelArguments) -> None:
    """Raise for a new adapter that the recipe does not describe, or that cannot stand over another."""
    mode, parent = model_args.adapter_mode, model_args.model_name_or_path
    if mode == "continue" or not is_adapter(parent):
        return
    if not model_args.use_peft:
        raise UserError(
            f"adapter_mode: {mode} trains a new adapter, and the recipe has none",
            got="use_peft: false",
            needed="use_peft: true, with lora_r and what else the adapter is to have",
            mend="set it, or adapter_mode: continue; to train all weights, start from what `align merge` writes",
        )
    if mode == "stack" and model_args.use_dora:
        raise UserError(
            "a DoRA adapter cannot stand over another",
            got="adapter_mode: stack, use_dora: true",
            needed="plain LoRA: DoRA rescales the weights of the base, not those that the parent makes of them",
            mend="adapter_mode: merge, or use_dora: false",
        )


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
    if kind == "sequence-classification":
        config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
    elif tokens := sorted({*template_token_ids(tokenizer), *grown}):
        config.trainable_token_indices = trained_rows(model, tokens)
    return config


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
