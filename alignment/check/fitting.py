"""Fit a draft of a recipe to its rows, its model's context and the memory of a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.check.costs import estimate_of
from alignment.check.material import Material
from alignment.estimate.compute import Device
from alignment.estimate.estimate import Estimate
from alignment.estimate.fit import FITS
from alignment.models.quantization import missing_for_quantization
from alignment.pipeline.recipes.draft import ACCUMULATION, MICRO, Draft, quantised, with_micro_batch
from alignment.stages.shared.defaults import lacks_bf16
from alignment.text import gigabytes

# max_length is rounded up to multiples of the first; the second is the largest that is chosen unasked.
LENGTH_STEP, LONGEST = 256, 4096
# The least rows of a micro-batch: KTO estimates its KL from the replies of one.
LEAST = {"kto": 2}

# Optimizer steps below which a smaller batch is chosen, and then more epochs, up to so many.
FEWEST_STEPS, MOST_EPOCHS = 50, 2
# Optimizer steps below which little is learned.
TOO_FEW_STEPS = 20

# The width of an 8B model, which the rates of recipes/lora-1gpu are for.
WIDTH = 4096

Configs = Callable[[Mapping[str, Any]], tuple[Any, ...]]


def fit(made: Draft, material: Material, device: Device, configs: Configs, qlora: Path) -> int | None:
    """Change a draft's lengths, type of weights and batches to what fits; the user's own keys are kept.

    Args:
        material: of the draft's stage.
        configs: builds the stage's dataclasses from a recipe.
        qlora: the folder recipes/qlora-1gpu.

    Returns:
        The number of optimizer steps; None if it is unknown.
    """
    fit_lengths(made, material)
    if not device.on_gpu and lacks_bf16() and made.recipe.get("dtype") == "bfloat16":
        made.set("dtype", "float32", "this CPU has no instructions for bfloat16")
    fit_steps(made, material)
    fit_rate(made, material)
    recipe, reasons = dict(made.recipe), dict(made.reasons)
    fit_memory(made, material, device, configs)
    smallest = _estimate(made.recipe, material, device, configs)
    adapter = made.recipe.get("use_peft") or (material.origin.model and material.origin.model.adapter)
    if smallest and smallest.verdict != FITS and adapter and not missing_for_quantization():
        made.recipe, made.reasons = recipe, reasons  # in 4 bit a larger micro-batch may fit
        for key, value in quantised(qlora, material.method).items():
            made.set(key, value, "the base in 4 bit: it does not fit in 16")
        fit_memory(made, material, device, configs)
    found = _estimate(made.recipe, material, device, configs)
    return found.steps if found else None


def fit_lengths(made: Draft, material: Material) -> None:
    """Choose max_length by the sampled rows, and keep it and completions within the context."""
    context = material.origin.context
    lengths = [row.tokens for row in material.lengths]
    limit = made.recipe.get("max_length")
    if limit and lengths:
        longer = sum(length > limit for length in lengths) / len(lengths)
        if longer > material.options.truncated:
            wanted = min(LONGEST, -(-max(lengths) // LENGTH_STEP) * LENGTH_STEP)
            made.set("max_length", wanted, f"the longest of {len(lengths)} sampled rows has {max(lengths):,} tokens")
    if context and (made.recipe.get("max_length") or 0) > context:
        made.set("max_length", context, "the model's context")
    if context and (made.recipe.get("max_completion_length") or 0) > context // 2:
        made.set("max_completion_length", context // 2, "half of the model's context; the prompt needs the rest")


def fit_steps(made: Draft, material: Material) -> None:
    """Make the optimizer's batch smaller if few rows would give too few steps to learn from; then train more epochs."""
    epochs, rows = made.recipe.get("num_train_epochs"), material.trained
    if not epochs or made.recipe.get("max_steps"):
        return
    micro, whole = made.recipe[MICRO], made.recipe.get(ACCUMULATION, 1)
    accumulation = whole
    if not made.chosen & {MICRO, ACCUMULATION}:
        accumulation = _smaller_accumulation(whole, rows * epochs / micro)
        if accumulation < whole:
            made.set(ACCUMULATION, accumulation, f"instead of {whole}, as there are {rows} rows")
    if epochs < MOST_EPOCHS and rows * epochs < FEWEST_STEPS * micro * accumulation:
        made.set("num_train_epochs", MOST_EPOCHS, f"instead of {epochs}, as there are {rows} rows")


def fit_rate(made: Draft, material: Material) -> None:
    """Raise the rate of an adapter that is trained on replies against a reference, if its model is narrow.

    Adam's rate for matrices is proportional to 1 / width (arXiv 2203.03466); with that of an 8B model the policy of a
    small one stays at its reference.
    """
    model = material.origin.model
    width = getattr(model.config.get_text_config(), "hidden_size", None) if model else None
    adapter = made.recipe.get("use_peft") or (model and model.adapter)
    if adapter and width and width < WIDTH and material.facts.has_reference and not material.facts.samples:
        rate = float(f"{made.recipe['learning_rate'] * WIDTH / width:.1g}")
        made.set("learning_rate", rate, f"instead of {made.recipe['learning_rate']:g}, as the model is {width} wide")


def _smaller_accumulation(whole: int, micro_batches: float) -> int:
    """Return the largest accumulation, halved as often as need be, with FEWEST_STEPS steps in so many micro-batches."""
    accumulation = whole
    while accumulation % 2 == 0 and micro_batches < FEWEST_STEPS * accumulation:
        accumulation //= 2
    return accumulation


def fit_memory(made: Draft, material: Material, device: Device, configs: Configs) -> None:
    """Choose the largest micro-batch that fits, activation checkpointing if it is needed, and a short warmup."""
    tried = (
        (keys, _estimate(made.recipe | keys, material, device, configs)) for keys in _batches(made, material.method)
    )
    for keys, found in tried:  # noqa: B007 (the last is kept if none fits)
        if found is None or found.verdict == FITS:
            break
    if found is None:
        return
    made.recipe |= keys
    if MICRO not in made.chosen:
        memory = f"about {gigabytes(found.total_memory)} GB of {gigabytes(device.memory)} GB ({device.name})"
        rows = made.recipe[MICRO] * made.recipe.get(ACCUMULATION, 1)
        made.reasons[MICRO] = f"{memory}; {_per_step(made.recipe, material, rows)} per step"
    warmup, tenth = made.recipe.get("warmup_steps") or 0, found.steps // 10
    if warmup > tenth:
        made.set("warmup_steps", tenth, f"a tenth of the {found.steps} steps")


def _per_step(recipe: Mapping[str, Any], material: Material, rows: int) -> str:
    """Return the size of the optimizer's batch in words: a prompt of GRPO has several completions."""
    if not material.facts.samples:
        return f"{rows} rows"
    group = material.get("num_generations") or 1
    return f"{rows} completions" + (f", of {rows // group} prompts," if group > 1 else "")


def _batches(made: Draft, method: str) -> Iterator[dict[str, Any]]:
    """Yield keys that need less and less memory, for equal optimizer batches."""
    sizes = [made.recipe[MICRO]]
    if not made.chosen & with_micro_batch(made.recipe, made.recipe[MICRO]).keys():
        while sizes[-1] % 2 == 0 and sizes[-1] > LEAST.get(method, 1):
            sizes.append(sizes[-1] // 2)
    batches = [with_micro_batch(made.recipe, size) if size < sizes[0] else {} for size in sizes]
    yield from batches
    if "activation_checkpointing" not in made.chosen:
        yield from (batch | {"activation_checkpointing": True} for batch in batches)


def _estimate(recipe: Mapping[str, Any], material: Material, device: Device, configs: Configs) -> Estimate | None:
    return estimate_of(replace(material, configs=configs(recipe)), device)
