"""Evaluate the checkpoints of a comparison that lack eval runs, as `align eval` would."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from alignment.errors import UserError, raise_all
from eval.comparison.find import asked_in, measurement, records_of, without_template
from eval.conditions.chat_template import ASK, template_of
from eval.conditions.suite_identity import SuiteNow
from eval.harness.place import place_of
from eval.harness.run_suite import evaluate_many
from eval.harness.store import checkpoint_digest, other_checkpoint, read_record, run_name, sha256_of_text, variant_words
from eval.harness.suite import FORMATS, suite_formats, suite_name
from eval.harness.with_base import evaluate_with_base

logger = logging.getLogger(__name__)

Records = dict[Path, dict]
Lacking = dict[str, list[str]]  # suite -> formats


def evaluate_missing(
    first: str,
    others: Sequence[str],
    suites: Sequence[str],
    formats: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    chat_template: str | None = None,
    too_long: str = "skip",
) -> list[Path]:
    """Run suites on the checkpoints of a comparison that have no runs of them.

    A run counts only if the checkpoint's weights and the suite are those that it measured. If `first` is the base of an
    adapter among `others` and both lack the same runs, both are evaluated from one load.

    Args:
        first, others: as for `eval.comparison.find.match`; folders of runs, which are not checkpoints, are skipped.
        suites: as for `evaluate_many`.
        formats: by default the formats in which a checkpoint of the comparison was run, or both formats.
        limit: items per task; such runs are a variant, as with `align eval`.
        batch_size: rows per batch.
        chat_template, too_long: as for `evaluate`. Runs in the chat format count only if they were in this template.

    Returns:
        The folders of runs that do not count, and were not replaced: of other weights or of another suite.
    """
    sides = list(dict.fromkeys([first, *others]))
    checkpoints = {side: path for side in sides if (path := _checkpoint(side)) is not None}
    variant = {"limit": limit} if limit else {}
    options = {"limit": limit, "variant": variant, "batch_size": batch_size, "too_long": too_long}
    options["chat_template"] = chat_template
    lacking: dict[str, Lacking] = {side: {} for side in checkpoints}
    found = {side: _records_now(side, checkpoints.get(side), suites) for side in sides}
    outdated = {folder: record for _, others in found.values() for folder, record in others.items()}
    for folder in outdated:
        logger.warning("%s is of other weights or of another suite with that name, and does not count", folder)
    current = {side: list(records.values()) for side, (records, _) in found.items()}
    for suite in suites:
        for side, missing in _missing(suite, current, formats, limit, chat_template).items():
            if side in checkpoints and (
                possible := _possible(checkpoints[side], suite, missing, formats, chat_template)
            ):
                lacking[side][suite] = possible
    _require_free_names({checkpoints[side]: missing for side, missing in lacking.items()}, variant, chat_template)
    above = (side for side in others if lacking.get(side) and _is_base(checkpoints.get(first), checkpoints[side]))
    adapter = next(above, None)
    if (
        adapter
        and lacking[first]
        and lacking[first] == _as_of_base(lacking[adapter], checkpoints[first], chat_template)
    ):
        del lacking[first]
        _run(checkpoints[adapter], lacking.pop(adapter), options, checkpoints[first])
    for side, suites_left in lacking.items():
        _run(checkpoints[side], suites_left, options)
    return [folder for folder, record in outdated.items() if read_record(folder) == record]


def _records_now(side: str, checkpoint: str | None, suites: Sequence[str]) -> tuple[Records, Records]:
    """A side's runs of suites that measured its checkpoint and the suites as they are now, and its other runs of them.

    A folder of runs is compared as it is: there is nothing that could be evaluated again.
    """
    named: dict[str, SuiteNow] = {suite_name(suite): SuiteNow(suite) for suite in suites}
    records = {folder: record for folder, record in records_of(side).items() if record["suite"] in named}
    if checkpoint is None or not records:
        return records, {}
    weights = checkpoint_digest(checkpoint)
    same = {
        folder: record
        for folder, record in records.items()
        # Of a checkpoint on the hub, no digest is known.
        if (None in (weights, record.get("checkpoint_digest")) or record["checkpoint_digest"] == weights)
        and named[record["suite"]].is_in(record)
    }
    return same, {folder: record for folder, record in records.items() if folder not in same}


def _checkpoint(side: str) -> str | None:
    """The checkpoint at a side of a comparison; None for a folder of runs."""
    from alignment.models.checkpoints import is_adapter, is_path

    if not is_path(side):
        return side
    folders = (Path(side), Path(side) / "checkpoint")
    return next((str(folder) for folder in folders if is_adapter(folder) or (folder / "config.json").is_file()), None)


def _missing(
    suite: str,
    current: dict[str, list[dict]],
    formats: Sequence[str] | None,
    limit: int | None,
    chat_template: str | None,
) -> Lacking:
    """Side -> the formats of a suite in which the comparison needs a run that the side lacks."""
    name, variant = suite_name(suite), " ".join(variant_words({"limit": limit} if limit else {}))
    digest = sha256_of_text(template_of(chat_template)) if chat_template else None
    measured = {
        side: {
            (measurement if digest is None else without_template)(record)
            for record in records
            if record["suite"] == name and (digest is None or asked_in(record, digest))
        }
        for side, records in current.items()
    }
    if formats is None and limit is None and set.intersection(*measured.values()):
        return {}
    known = {format for found in measured.values() for _, format, words in found if words == variant}
    wanted = formats or [format for format in FORMATS if format in known] or list(FORMATS)
    return {
        side: [format for format in wanted if (name, format, variant) not in found] for side, found in measured.items()
    }


def _possible(
    checkpoint: str, suite: str, missing: list[str], asked: Sequence[str] | None, chat_template: str | None
) -> list[str]:
    """The missing formats that the suite has; chat only with a chat template, unless no other format was requested."""
    from alignment.models.loading import load_tokenizer

    left = [format for format in missing if format in suite_formats(suite)]
    may_lack = "chat" in left and not chat_template and list(asked or FORMATS) != ["chat"]
    if may_lack and not load_tokenizer(checkpoint).chat_template:
        logger.warning("%s has no chat template and is not asked in the chat format: %s", checkpoint, ASK)
        left.remove("chat")
    return left


def _is_base(checkpoint: str | None, other: str) -> bool:
    from alignment.models.checkpoints import adapter_base, is_adapter

    if checkpoint is None or not is_adapter(other):
        return False
    base = adapter_base(other)
    return base == checkpoint or (Path(base).is_dir() and Path(base).resolve() == Path(checkpoint).resolve())


def _as_of_base(lacking: Lacking, base: str, chat_template: str | None) -> Lacking:
    """The suites and formats that `evaluate_with_base` would run on the base."""
    possible = {suite: _possible(base, suite, formats, None, chat_template) for suite, formats in lacking.items()}
    return {suite: formats for suite, formats in possible.items() if formats}


def _run(checkpoint: str, lacking: Lacking, options: dict, base: str | None = None) -> None:
    """Run suites, grouped by their formats, so that the model is usually loaded once."""
    place = place_of(checkpoint)
    for formats in {tuple(formats) for formats in lacking.values()}:
        suites = [suite for suite, its in lacking.items() if tuple(its) == formats]
        names = f"{base} and {checkpoint}" if base else checkpoint
        logger.info("evaluating %s: %s (%s)", names, ", ".join(suites), ", ".join(formats))
        given = options | {"seed": place.seed}
        if base:
            evaluate_with_base(checkpoint, suites, list(formats), place, place_of(base), **given)
        else:
            given |= {"stage": place.stage, "parent": place.parent}
            evaluate_many(checkpoint, suites, list(formats), place.folder, **given)


def _require_free_names(lacking: dict[str, Lacking], variant: dict, chat_template: str | None) -> None:
    """Raise if a checkpoint's runs would overwrite those of another checkpoint with the same name."""
    if chat_template:
        return  # part of the name by each checkpoint's own template: `evaluate_many` checks
    taken: dict[Path, str] = {}
    refused = []
    for checkpoint, missing in lacking.items():
        place = place_of(checkpoint)
        for folder in [
            place.folder / run_name(place.stage, suite_name(suite), format, variant)
            for suite, formats in missing.items()
            for format in formats
        ]:
            if other := other_checkpoint(folder, checkpoint, place.stage):
                taken[folder] = other
            if folder in taken:
                refused.append(
                    UserError(
                        f"{folder} would hold eval runs of {checkpoint} and of another checkpoint with that name",
                        got=taken[folder],
                        fix="run `align eval` on each with a different --output_dir, and compare those folders",
                    )
                )
            taken[folder] = checkpoint
    raise_all(refused)
