"""Check a stage's settings against its rows and its model: steps, warmup, validation, context, packing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from alignment.check.findings import Finding, error, from_user_error, warning
from alignment.check.material import Material
from alignment.data.reading.sources import own_test_split
from alignment.data.tokenizing.length_advice import length_fix
from alignment.errors import UserError
from alignment.models.quantization import require_quantization
from alignment.stages import TOKENIZER

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def check_context(material: Material) -> Iterator[Finding]:
    """Report a max_length beyond the model's context."""
    context, length = material.origin.context, material.get("max_length", 0)
    if context is not None and material.kind != "prompts" and (length is None or length > context):
        if material.kind == "text" and length is None:
            return  # packed to the context
        yield error(
            "max_length is beyond the model's context",
            got=f"max_length {length}, {context} positions",
            expected=f"max_length of at most {context}",
            fix=f"{length_fix(material.lengths, length, context)}; or a model with a longer context",
        )


def check_validation(material: Material) -> Iterator[Finding]:
    """Report a recipe that evaluates without a validation split."""
    source, named = material.get("dataset_name"), material.get("dataset_test_split")
    held_out = named or material.get("eval_share") or (source and own_test_split(source))
    strategy = getattr(material.get("eval_strategy", "no"), "value", material.get("eval_strategy", "no"))
    if not held_out and (strategy != "no" or material.get("load_best_model_at_end")):
        yield error(
            "the recipe evaluates, but there is no validation split",
            got=f"eval_strategy {strategy}, eval_share 0, no dataset_test_split",
            expected="rows to validate on",
            fix="eval_share: 0.05, a dataset_test_split, or eval_strategy: no",
        )


def optimizer_batch(material: Material) -> int:
    """Return the rows per optimizer step over all processes; a prompt of GRPO has several completions."""
    size, processes = material.get("per_device_train_batch_size", 1), material.get("world_size", 1)
    return math.ceil(
        size * material.get("gradient_accumulation_steps", 1) * processes / material.get("num_generations", 1)
    )


def steps(material: Material) -> int:
    """Return the number of optimizer steps as transformers counts; `estimate` handles packed rows and rollouts."""
    if material.get("max_steps", -1) > 0:
        return material.get("max_steps")
    rows, size = material.trained, material.get("per_device_train_batch_size", 1)
    whole = rows // size if material.get("dataloader_drop_last") else math.ceil(rows / size)
    per_epoch = max(whole // max(material.get("gradient_accumulation_steps", 1), 1), 1) if whole else 0
    return math.ceil(material.get("num_train_epochs", 1) * per_epoch)


def check_steps(material: Material) -> Iterator[Finding]:
    """Report too few rows for a step or a batch, and a warmup that outlasts training."""
    if material.options.quick or material.get("per_device_train_batch_size") is None:
        return
    rows, batch, total = material.trained, optimizer_batch(material), None
    if material.kind != "text":
        total = steps(material)
    if total == 0:
        yield error(
            "there are too few rows for one step",
            got=f"{rows} training rows, a batch of {batch}, dataloader_drop_last",
            expected=f"at least {batch} rows",
            fix="a smaller per_device_train_batch_size, more rows, or dataloader_drop_last: false",
        )
        return
    if rows < batch and material.kind != "text" and not material.get("packing"):
        yield warning(
            "there are fewer rows than one optimizer batch",
            got=f"{rows} training rows, a batch of {batch}",
            fix="a smaller per_device_train_batch_size or gradient_accumulation_steps",
        )
    warmup = material.get("warmup_steps") or 0
    if total and material.kind != "prompts" and warmup >= 1 and warmup >= total and not material.get("packing"):
        yield warning(
            "training ends before the warmup does",
            got=f"{total} steps (epochs x rows / batch), warmup_steps {warmup:g}",
            expected="fewer warmup steps than steps",
            fix="fewer warmup_steps, or more epochs",
        )


def check_rollout(material: Material) -> Iterator[Finding]:
    """Report too few prompts for one rollout of GRPO: TRL drops prompts that do not fill a rollout."""
    group = material.get("num_generations")
    if group is None or material.options.quick:
        return
    prompts, expected = material.rows.count("train"), material.get("generation_batch_size") // group
    if prompts < expected:
        yield error(
            "there are too few prompts for one rollout",
            got=f"{prompts} training prompts",
            expected=f"{expected}: generation_batch_size / num_generations",
            fix="more prompts, a smaller per_device_train_batch_size, or fewer steps_per_generation",
        )


def check_packing(material: Material) -> Iterator[Finding]:
    """Report packing in which documents attend to each other."""
    packed = material.kind == "text" or material.get("packing")
    if not packed or material.facts.checkpoint == TOKENIZER:
        return
    if material.get("packing") and material.get("packing_strategy") == "wrapped":
        yield error(
            "packed rows attend to each other",
            got="packing_strategy: wrapped joins rows without boundaries, and cuts rows in the middle",
            expected="packing_strategy: bfd",
            fix="packing_strategy: bfd",
        )
    if material.origin.config is not None and (why := _mixes_documents(material.origin.config)):
        yield error(
            "packed rows attend to each other",
            got=why,
            expected="a model that reads document boundaries from position_ids",
            fix="packing: false" if material.get("packing") else "another model: pretraining packs its documents",
        )


def check_quantization(material: Material) -> Iterator[Finding]:
    """Report a quantised base that this machine cannot load."""
    try:
        for key in ("load_in_4bit", "load_in_8bit"):
            if material.get(key):
                require_quantization(f"{key}: true")
    except UserError as mistake:
        yield from from_user_error(mistake)


def _mixes_documents(config: PreTrainedConfig) -> str | None:
    """Return why a model cannot keep the documents of a packed row apart; None if it can."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if isinstance(model, tuple):
        model = model[0]
    if model is None:
        return None
    if getattr(model, "_is_stateful", False):
        return f"{model.__name__} is recurrent: its state carries over from document to document"
    if not getattr(model, "_supports_attention_backend", False):
        return f"{model.__name__} makes its own masks, which ignore position_ids"
    return None
