"""Run the checks of a pipeline's stages, and collect the findings."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.check import lengths, reward_reading, reward_sources, rows, settings, template
from alignment.check.costs import asking_costs, rows_read_by, rows_written_by, stage_costs
from alignment.check.display import show_stage
from alignment.check.findings import ERROR, WARNING, Finding, from_user_error, in_options, note
from alignment.check.material import Material, Options, Rows, from_the_hub, read_rows
from alignment.check.origin import STAND_IN_ROWS, find_origin, recipes_of
from alignment.check.stage_check import StageCheck, merged, refused
from alignment.data.arguments import DataArguments
from alignment.data.preparing.filters import canonical_rows, characters
from alignment.data.preparing.load import check_source
from alignment.data.reading.row_formats import CONVERSATIONS, KINDS
from alignment.data.tokenizing.encoding import encode_rows, row_tokens
from alignment.data.tokenizing.length_advice import RowLength
from alignment.errors import UserError, raise_all
from alignment.estimate.compute import Device, this_device
from alignment.estimate.feedback_cost import RowsRead
from alignment.pipeline.graph import Pipeline
from alignment.pipeline.plan import Step, remaining_checkpoints
from alignment.pipeline.recipes.packaged_recipes import short_name
from alignment.pipeline.stage_spec import StageSpec, stage_keys
from alignment.stages import DATA, STAGES

logger = logging.getLogger(__name__)

Check = Callable[[Material], Iterator[Finding]]

# Checks of every stage's rows, and of the rows and settings of those that train; those below need a tokenizer.
READ: tuple[Check, ...] = (rows.check_dropped, rows.check_columns, rows.check_duplicates)
TRAINED: tuple[Check, ...] = (
    rows.check_leaks,
    rows.check_scores,
    settings.check_validation,
    settings.check_steps,
    settings.check_rollout,
    settings.check_context,
    settings.check_packing,
    settings.check_quantization,
)
TOKENS: tuple[Check, ...] = (template.check_special_tokens, rows.check_injected, lengths.check_rows_per_reply)
CHAT: tuple[Check, ...] = (*TOKENS, template.check_template, template.check_system, template.check_prefix)
KIND_ROWS: dict[str, tuple[Check, ...]] = {
    "kto": (rows.check_kto,),
    "preference": (rows.check_label_column,),
    "prompts": (reward_sources.check_reward_columns,),
}
KIND_TOKENS: dict[str, tuple[Check, ...]] = {
    "text": TOKENS,
    "sft": (*CHAT, template.check_start_tokens, lengths.check_masks, lengths.check_truncation),
    "preference": (*CHAT, lengths.check_pairs, reward_reading.check_reward_reading),
    "prompts": (*CHAT, lengths.check_prompts, reward_reading.check_reward_reading),
    "kto": (*CHAT, lengths.check_truncation),
}
RUN_SAMPLE = 200  # rows to tokenize before a run
LONGEST = 4  # rows with the most characters, tokenized to find the longest
READ_WHOLE = 50_000  # the longest rows are searched for in data sets of at most this many rows


def check_stages(
    pipeline: Pipeline,
    mistakes: Mapping[str, Sequence[UserError]] | None = None,
    *,
    remaining: Mapping[str, Path] | None = None,
    only: Container[str] | None = None,
    options: Options | None = None,
    device: Device | None = None,
) -> list[StageCheck]:
    """Check stages of a pipeline, without writing anything.

    Args:
        mistakes: errors in the stages' keys, found when the pipeline was loaded.
        remaining: the stages whose checkpoint exists and is kept, with its path.
        only: the stages to check; default: all.
        device: the device that the stages would run on; None: no estimate of memory and time.
    """
    recipes, checks = recipes_of(pipeline), []
    read: dict[str, RowsRead] = {}  # data stage -> the rows that it will write
    for spec in pipeline.stages:
        if only is not None and spec.name not in only:
            continue
        if in_keys := (mistakes or {}).get(spec.name):
            checks.append(refused(spec, in_keys))
            continue
        parents = dict(remaining or {})
        material, findings = inspect_stage(spec, pipeline.run_dir, recipes, parents, options or Options())
        costs, found = stage_costs(material, device) if material and device else ([], [])
        if spec.facts.checkpoint == DATA and (rows_read := rows_read_by(spec, material, read)):
            if device and hasattr(spec.module, "asking"):
                asked, unfit = asking_costs(spec, pipeline.run_dir, rows_read, recipes, parents, device)
                costs, found = [*costs, *asked], [*found, *unfit]
            read[spec.name] = rows_written_by(spec, pipeline.run_dir, rows_read)
        named = [finding.for_stage(spec.name) for finding in [*findings, *found]]
        checks.append(StageCheck(spec.name, short_name(spec.recipe_path), named, material, costs))
    return checks


def inspect_stage(
    spec: StageSpec, run_dir: Path, recipes: dict[str, dict[str, Any]], remaining: dict[str, Path], options: Options
) -> tuple[Material | None, list[Finding]]:
    """Return a stage's material and all findings about it; no material if its rows cannot be read."""
    kind = STAGES[spec.method].data
    try:
        configs = spec.configs(run_dir)
    except UserError as mistake:
        return None, from_user_error(mistake)
    unusable = data_stage_findings(spec, configs)
    if to_come := sorted({stage for stage in spec.rows_from.values() if stage not in remaining}):
        to_check = note(f"not checked: its rows come from {', '.join(to_come)}, and are checked when they are there")
        return None, [*unusable, to_check]
    if unusable:
        return None, unusable
    findings = check_replay(configs)
    read, found = read_or_note(configs, kind, options)
    findings += found
    if read is None:
        return None, findings
    train = read.splits["train"].select_columns(list(KINDS[kind]))
    texts = ["\n".join(rows.texts_of(row)) for row in train.select(range(min(STAND_IN_ROWS, len(train))))]
    origin, found = find_origin(spec, recipes, remaining, texts, options.offline)
    findings += found
    material = Material(spec.name, spec.method, kind, configs, read, origin, options)
    if origin.tokenizer is not None:
        material, found = encode(material)
        findings += found
        findings += [finding for check in KIND_TOKENS[kind] for finding in check(material)]
    trained = () if spec.facts.checkpoint == DATA else TRAINED
    findings += [finding for check in (*READ, *trained, *KIND_ROWS.get(kind, ())) for finding in check(material)]
    return material, findings


def data_stage_findings(spec: StageSpec, configs: tuple[Any, ...]) -> list[Finding]:
    """Report models of a data stage that cannot judge, criticise or answer, if all are local and none is a stage's."""
    models_are_here = spec.parents.keys() <= spec.rows_from.keys() and all(
        Path(name).is_dir() for name in spec.outside.values()
    )
    try:
        if spec.facts.checkpoint == DATA and models_are_here and hasattr(spec.module, "check"):
            spec.module.check(*configs)
    except UserError as mistake:
        return from_user_error(mistake)
    return []


def read_or_note(configs: tuple[Any, ...], kind: str, options: Options) -> tuple[Rows | None, list[Finding]]:
    """Return the rows; or None with the errors in the data, or with a note that they are not cached."""
    data = next(config for config in configs if isinstance(config, DataArguments))
    seed = next((config.seed for config in configs if hasattr(config, "seed")), 0)
    try:
        return read_rows(data, kind, seed, getattr(data, "dataset_card_split", None), options), []
    except UserError as mistake:
        hub = from_the_hub(data) if options.offline else []
        if not hub:
            return None, from_user_error(mistake)
    try:
        check_source(data, kind)  # the sources that are local
    except UserError as mistake:
        return None, from_user_error(mistake)
    return None, [note(f"not checked (offline): {', '.join(hub)} may not be in the local cache")]


def check_replay(configs: tuple[Any, ...]) -> list[Finding]:
    """Report a replay data set that does not exist."""
    name = next((config.replay_dataset_name for config in configs if hasattr(config, "replay_dataset_name")), None)
    try:
        if name:
            check_source(DataArguments(name), "text")
    except UserError as mistake:
        return from_user_error(mistake)
    return []


def encode(material: Material) -> tuple[Material, list[Finding]]:
    """Tokenize the sample as the stage's trainer will."""
    base = None if material.facts.starts_from_base else material.get("model_name_or_path")
    lora = bool(material.get("use_peft"))
    unusable = template.find_unusable(material.tokenizer, base, lora) if material.kind != "text" else []
    if unusable:
        return material, unusable
    replies_only = material.kind == CONVERSATIONS and bool(material.get("assistant_only_loss"))
    own, marks, findings = template.find_training_template(material.tokenizer, replies_only)
    material = replace(material, training_template=own, marks=marks, formats=material.kind != "text")
    sample = list(zip(material.sampled_indices, material.sample, strict=True))
    encoded, pairs, refused = encode_rows(material.kind, sample, material.tokenizer, marks, own)
    longest = longest_rows(material)
    long, long_pairs, _ = encode_rows(material.kind, longest, material.tokenizer, marks, own)
    tokens = row_tokens([*encoded, *long], [*pairs, *long_pairs])
    rows_of = dict([*sample, *longest])
    lengths_of = [RowLength(characters(material.kind, rows_of[number]), size) for number, size in tokens.items()]
    material = replace(material, encoded=encoded, pairs=pairs, lengths=lengths_of)
    return material, findings + list(lengths.check_refused(refused, len(sample)))


def longest_rows(material: Material) -> list[tuple[int, dict[str, Any]]]:
    """Return the training rows with the most characters, as memory depends on the longest row.

    None for text, which is cut into windows, and for large data sets, whose longest row is that of the sample.
    """
    if material.kind == "text" or len(material.train) > READ_WHOLE:
        return []
    every = enumerate(canonical_rows(material.train, material.kind))
    return heapq.nlargest(LONGEST, every, key=lambda numbered: sum(map(len, rows.texts_of(numbered[1]))))


def raise_errors(checks: Sequence[StageCheck]) -> None:
    """Raise all errors together as user errors."""
    raise_all(
        [
            UserError(f"{found.stage}: {found.what}", got=found.got, expected=found.expected, fix=found.fix)
            for found in merged(checks)
            if found.severity == ERROR
        ]
    )


def check_before_run(
    max_truncated: float,
    max_dropped: float,
    quick: bool,
    pipeline: Pipeline,
    steps: Sequence[Step],
    *,
    show: bool = False,
    as_options: bool = False,
) -> None:
    """Check a few rows of each stage that is about to run: log warnings, raise errors.

    Args:
        show: print the rows, memory and steps of each stage.
        as_options: name settings as options in fixes, for a stage that was run without a recipe.
    """
    running = {step.spec.name for step in steps if step.runs}
    if not running:
        return
    remaining = {name: place for name, place in remaining_checkpoints(pipeline, steps).items() if name not in running}
    options = Options(RUN_SAMPLE, max_truncated, max_dropped, whole=False, quick=quick)
    device = None if quick else this_device(measure=False)
    checks = check_stages(pipeline, remaining=remaining, only=running, options=options, device=device)
    if show:
        print("\n" + "\n\n".join(show_stage(check, 0, colour=False) for check in checks), flush=True)
    if as_options:
        keys = {step.spec.name: stage_keys(step.spec.method).names for step in steps}
        checks = [replace(check, findings=in_options(check.findings, keys[check.stage])) for check in checks]
    for finding in merged(checks):
        if finding.severity == WARNING:
            logger.warning("check: %s: %s%s", finding.stage, finding.what, f" ({finding.got})" if finding.got else "")
    raise_errors(checks)
