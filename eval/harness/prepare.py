"""The eval runs that a comparison lacks: made before it, as `align eval` would make them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from alignment.errors import UserError, raise_all
from eval.comparison.find import measurement, records_of
from eval.harness.place import place_of
from eval.harness.run_suite import evaluate_many
from eval.harness.store import read_record, run_name, variant_words
from eval.harness.suite import FORMATS, suite_formats, suite_name
from eval.harness.with_base import evaluate_with_base

logger = logging.getLogger(__name__)

Lacking = dict[str, list[str]]  # suite -> formats


def evaluate_missing(
    first: str,
    others: Sequence[str],
    suites: Sequence[str],
    formats: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 64,
) -> None:
    """Run suites on the checkpoints of a comparison that have no runs of them.

    Where the first is the base of another, which is an adapter, and neither has any, both are run from one load.

    Args:
        first, others: as `eval.comparison.find.match` takes them; what is no checkpoint (a run's folder, say) is left
            as it is.
        suites: as `evaluate_many`'s.
        formats: default: those in which a checkpoint of the comparison was run, else both.
        limit: items of each task; the runs are a variant of their own, as with `align eval`.
    """
    sides = list(dict.fromkeys([first, *others]))
    checkpoints = {side: found for side in sides if (found := _checkpoint(side)) is not None}
    options = {"limit": limit, "variant": {"limit": limit} if limit else {}, "batch_size": batch_size}
    lacking: dict[str, Lacking] = {side: {} for side in checkpoints}
    for suite in suites:
        for side, missing in _missing(suite, sides, formats, limit).items():
            if side in checkpoints and (missing := _possible(checkpoints[side], suite, missing, formats)):
                lacking[side][suite] = missing
    _require_free_names({checkpoints[side]: missing for side, missing in lacking.items()}, options["variant"])
    above = (side for side in others if lacking.get(side) and _is_base(checkpoints.get(first), checkpoints[side]))
    adapter = next(above, None)
    if adapter and lacking[first] and lacking[first] == _as_of_base(lacking[adapter], checkpoints[first]):
        del lacking[first]
        _run(checkpoints[adapter], lacking.pop(adapter), options, checkpoints[first])
    for side, missing in lacking.items():
        _run(checkpoints[side], missing, options)


def _checkpoint(side: str) -> str | None:
    """The checkpoint that a side of a comparison is; None for a folder of runs."""
    from alignment.models.checkpoints import is_adapter, is_path

    if not is_path(side):
        return side
    folders = (Path(side), Path(side) / "checkpoint")
    return next((str(one) for one in folders if is_adapter(one) or (one / "config.json").is_file()), None)


def _missing(suite: str, sides: Sequence[str], formats: Sequence[str] | None, limit: int | None) -> Lacking:
    """Side -> the formats in which it has not been through a suite that the others are, or are to be, compared in."""
    name, variant = suite_name(suite), " ".join(variant_words({"limit": limit} if limit else {}))
    measured = {
        side: {found for found in map(measurement, records_of(side).values()) if found[0] == name} for side in sides
    }
    if formats is None and limit is None and set.intersection(*measured.values()):
        return {}
    known = {format for found in measured.values() for _, format, words in found if words == variant}
    wanted = formats or [format for format in FORMATS if format in known] or list(FORMATS)
    return {
        side: [format for format in wanted if (name, format, variant) not in found] for side, found in measured.items()
    }


def _possible(checkpoint: str, suite: str, missing: list[str], asked: Sequence[str] | None) -> list[str]:
    """Of the missing formats those that the suite has; chat only where there is a template, unless it was asked for."""
    from alignment.models.loading import load_tokenizer

    left = [format for format in missing if format in suite_formats(suite)]
    if "chat" in left and not asked and not load_tokenizer(checkpoint).chat_template:
        left.remove("chat")
    return left


def _is_base(checkpoint: str | None, other: str) -> bool:
    from alignment.models.checkpoints import adapter_base, is_adapter

    if checkpoint is None or not is_adapter(other):
        return False
    base = adapter_base(other)
    return base == checkpoint or (Path(base).is_dir() and Path(base).resolve() == Path(checkpoint).resolve())


def _as_of_base(lacking: Lacking, base: str) -> Lacking:
    """What `evaluate_with_base` would run on the base."""
    possible = {suite: _possible(base, suite, formats, None) for suite, formats in lacking.items()}
    return {suite: formats for suite, formats in possible.items() if formats}


def _run(checkpoint: str, lacking: Lacking, options: dict, base: str | None = None) -> None:
    """Suites with the same formats at a time, so that mostly the model is loaded once."""
    place = place_of(checkpoint)
    for formats in {tuple(formats) for formats in lacking.values()}:
        suites = [suite for suite, its in lacking.items() if tuple(its) == formats]
        names = f"{base} and {checkpoint}" if base else checkpoint
        logger.info("evaluating %s: %s (%s)", names, ", ".join(suites), ", ".join(formats))
        given = options | {"seed": place.seed}
        if base:
            evaluate_with_base(checkpoint, suites, list(formats), place, place_of(base), **given)
        else:
            sides = {"stage": place.stage, "parent": place.parent}
            evaluate_many(checkpoint, suites, list(formats), place.folder, **sides, **given)


def _require_free_names(lacking: dict[str, Lacking], variant: dict) -> None:
    """Raise where the runs of one checkpoint would be written over those of another with the same name."""
    taken: dict[Path, str] = {}
    refused = []
    for checkpoint, missing in lacking.items():
        place = place_of(checkpoint)
        for folder in [
            place.folder / run_name(place.stage, suite_name(suite), format, variant)
            for suite, formats in missing.items()
            for format in formats
        ]:
            if (folder / "run.json").is_file():
                taken[folder] = read_record(folder)["checkpoint"]
            if folder in taken:
                refused.append(
                    UserError(
                        f"{folder} is to hold an eval run of {checkpoint}, and of another checkpoint of that name",
                        got=taken[folder],
                        fix="run `align eval` on each with an --output_dir of its own, and compare those folders",
                    )
                )
            taken[folder] = checkpoint
    raise_all(refused)
