"""What a stage will take, and whether it fits: memory and time, and the questions of a judge or critic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.callbacks.processes import model_is_sharded
from alignment.check.findings import Finding, error, from_user_error, warning
from alignment.check.material import Material
from alignment.check.origin import find_asked
from alignment.errors import UserError
from alignment.estimate.compute import Device
from alignment.estimate.estimate import Estimate, estimate
from alignment.estimate.feedback_cost import TRIED, RowsRead, describe_asking, estimate_asking, prompts_of, rows_with
from alignment.estimate.fit import TOO_LARGE
from alignment.estimate.sampling import (
    Questions,
    SamplingEstimate,
    describe_sampling,
    estimate_sampling,
    saved_precision,
)
from alignment.estimate.shape import shape_of
from alignment.estimate.step_law import compared
from alignment.estimate.summary import SMALLEST, describe, fixes
from alignment.estimate.workload import TokenStatistics
from alignment.pipeline.stage_spec import StageSpec
from alignment.stages import CLASSIFIER, DATA, TOKENIZER
from alignment.stages.shared.recipe_keys import recipe_key
from alignment.text import gigabytes

# Share of the memory beyond which the estimate's error (at most 12%, benchmarks/memory_plan.py) is no explanation.
CLEARLY_TOO_LARGE = 1.25


def stage_costs(material: Material, device: Device) -> tuple[list[str], list[Finding]]:
    """Describe the memory and time of a stage in lines, with a finding if it does not fit the device."""
    if material.facts.checkpoint == DATA:
        sampled = sampling_estimate_of(material, device)
        unfit = sampling_finding(sampled) if sampled else None
        return (describe_sampling(sampled).splitlines() if sampled else []), ([unfit] if unfit else [])
    try:
        found = estimate_of(material, device)
    except UserError as mistake:  # an adapter that matches no layer
        return [], from_user_error(mistake)
    if found is None:
        return [], []
    lines = describe(found).splitlines()
    if material.get("model_name_or_path") is None:  # pretraining from random weights
        law = compared(found.hidden_parameters, found.tokens, material.get("learning_rate"), found.batch_tokens)
        lines.insert(3, f"  rates   {law}")
    sharded = bool(material.get("fsdp") or material.get("deepspeed")) or model_is_sharded()
    unfit = memory_finding(found, sharded)
    return lines, [unfit] if unfit else []


def estimate_of(material: Material, device: Device) -> Estimate | None:
    """Estimate memory and time from the tokens of a stage's rows; None if it trains no model or has no tokens."""
    sizes, origin = material.token_counts(), material.origin
    if not sizes or origin.model is None or material.facts.checkpoint in (TOKENIZER, DATA):
        return None
    reward = origin.reward_model
    return estimate(
        material.method,
        material.configs,
        origin.model.config,
        TokenStatistics(material.trained, sum(sizes) / len(sizes), material.longest),
        device,
        adapter=origin.model.adapter,
        reward_config=reward.config if reward else None,
        reward_adapter=reward.adapter if reward else None,
    )


def sampling_estimate_of(material: Material, device: Device) -> SamplingEstimate | None:
    """Estimate memory and time of a data stage from the tokens of its prompts; None if it samples no replies."""
    sizes, origin = material.token_counts(), material.origin
    answers, limit = material.get("num_generations"), material.get("max_completion_length")
    if not sizes or origin.model is None or not answers or not limit:
        return None
    longest = min(material.longest, origin.context - limit) if origin.context else material.longest
    asked = Questions(
        rows=material.rows.count("train"),
        mean_tokens=min(sum(sizes) / len(sizes), longest),  # the stage leaves longer prompts out
        longest_tokens=longest,
        answer_tokens=limit,
        answers=answers,
        batch=material.get("batch_size") or 1,
        rows_per_part=material.get("rows_per_part"),
        models=2 if material.get("versus_model_path") else 1,
    )
    model, judge = origin.model, origin.reward_model
    reward = shape_of(judge.config, judge.adapter, CLASSIFIER) if judge else None
    shape = shape_of(model.config, model.adapter)
    return estimate_sampling(shape, asked, device, saved_precision(model.config), reward)


def rows_read_by(spec: StageSpec, material: Material | None, written: Mapping[str, RowsRead]) -> RowsRead | None:
    """Return the rows that a data stage reads; None if their number is not known.

    Args:
        written: the rows of earlier data stages.
    """
    if material is not None:
        return RowsRead(material.rows.count("train"), False, material.sample[:TRIED])
    if set(spec.rows_from) != {"dataset_name"} or spec.rows_from["dataset_name"] not in written:
        return None
    found = written[spec.rows_from["dataset_name"]]
    limit = spec.recipe.get("max_train_samples") or found.count
    sample = rows_with(prompts_of(found.sample), spec.facts.data)
    return replace(found, count=min(found.count, limit), sample=sample)


def rows_written_by(spec: StageSpec, run_dir: Path, read: RowsRead) -> RowsRead:
    """Return what is known of the rows that a data stage will write."""
    configs = spec.configs(run_dir)
    per_row = spec.module.rows_to_come(*configs).per_row
    return RowsRead(
        read.count * per_row, True, read.sample, recipe_key(configs, "max_completion_length") or read.reply_tokens
    )


def asking_costs(
    spec: StageSpec,
    run_dir: Path,
    rows_read: RowsRead,
    recipes: dict[str, dict[str, Any]],
    remaining: dict[str, Path],
    device: Device,
) -> tuple[list[str], list[Finding]]:
    """Describe the questions of a judge or critic in lines, with a finding if a local model does not fit the device."""
    configs = spec.configs(run_dir)
    asking, found = spec.module.asking(*configs), None
    if model := find_asked(spec, asking.model_key, recipes, remaining, offline=True):
        batch, part = recipe_key(configs, "batch_size", 1), recipe_key(configs, "rows_per_part", 1)
        planned = (model[0], model[1].config, model[1].adapter)
        found = estimate_asking(asking, rows_read, planned, batch, part, device)
    unfit = sampling_finding(found) if found else None
    return describe_asking(asking, rows_read, found), [unfit] if unfit else []


def memory_finding(found: Estimate, sharded: bool = False) -> Finding | None:
    """Return an error if the stage cannot fit its device, a warning if it may not fit, None if it fits.

    Args:
        sharded: whether the model is sharded across several devices, which the estimate does not account for.
    """
    if found.verdict != TOO_LARGE:
        return None
    fix, memory = "; ".join([*fixes(found), "or --no-check to try anyway"]), found.device.memory
    got = f"about {gigabytes(found.total_memory)} GB of {gigabytes(memory)} GB"
    if sharded:
        return warning("the stage would not fit a single device without sharding", got=got, fix=fix)
    if found.least > memory:
        got += f"; still about {gigabytes(found.least)} GB with {SMALLEST}"
        return error("the model does not fit the memory of this machine, whatever the batch size", got=got, fix=fix)
    if found.total_memory > CLEARLY_TOO_LARGE * memory:
        return error("the stage will not fit the memory of this machine", got=got, fix=fix)
    return warning("the stage may not fit the memory of this machine", got=got, fix=fix)


def sampling_finding(found: SamplingEstimate) -> Finding | None:
    """Return an error if sampling cannot fit its device, a warning if it may not fit, None if it fits."""
    if found.verdict != TOO_LARGE:
        return None
    memory = found.device.memory
    got = f"about {gigabytes(found.total_memory)} GB of {gigabytes(memory)} GB"
    fix = f"batch_size: {found.largest_batch}" if found.largest_batch else f"a machine with {gigabytes(found.least)} GB"
    fix += "; or --no-check to try anyway"
    if found.total_memory > CLEARLY_TOO_LARGE * memory:
        return error("the stage will not fit the memory of this machine", got=got, fix=fix)
    return warning("the stage may not fit the memory of this machine", got=got, fix=fix)
