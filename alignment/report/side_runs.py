"""Other runs of a stage: those that a rerun replaced (RUN_DIR/previous), and variants in folders of their own."""

import logging
import re
from pathlib import Path

from alignment.durable.read import read_json
from alignment.errors import UserError
from alignment.pipeline.records.previous import PREVIOUS, RECORD
from alignment.report.headlines import headlines
from alignment.report.recipe_changes import changed_keys
from eval.comparison.compare import compare
from eval.comparison.find import measurement
from eval.harness.store import load_run, read_record

logger = logging.getLogger(__name__)

MOST = 3  # replaced runs per stage, the newest: each is compared item by item
SHOWN_METRICS = ("train_loss", "eval_loss", "eval_accuracy", "reward", "kl/completion")


def side_runs(run_dir: Path, stages: dict[str, dict], records: dict[str, dict], headline: dict) -> list[dict]:
    """Each other run of a stage, against the stage as it is now.

    Args:
        run_dir: the run directory.
        stages: the stages of the report.
        records: folder name -> run.json of the run directory's eval runs.
        headline: suite -> the task that represents it, if it is not the suite's aggregate.

    Returns:
        [{stage, other, folder, replaced (whether a rerun replaced it), changes: [{key, a, b}] of the recipe, or None if
        the other's recipe is unknown, seed, seconds, metrics: [{name, a, b}] at the end of training, comparisons: rows
        of eval.comparison.compare with `headline`, not_compared: [reason]}]. In rows and pairs, `a` is the run that was
        replaced or the stage that a variant varies, and `b` is the newer one.
    """
    return [*_replaced(run_dir, stages, records, headline), *_variants(run_dir, stages, records, headline)]


def replaced_folders(run_dir: Path) -> list[tuple[str, Path]]:
    """(stage, folder) of the newest runs of each stage in RUN_DIR/previous, oldest first."""
    found = [
        (match[1], int(match[2]), path)
        for path in (run_dir / PREVIOUS).glob("*")
        if path.is_dir() and (match := re.fullmatch(r"(.+)-(\d+)", path.name))
    ]
    kept: dict[str, list[Path]] = {}
    for stage, _, path in sorted(found):
        kept.setdefault(stage, []).append(path)
    return [(stage, path) for stage, paths in kept.items() for path in paths[-MOST:]]


def _replaced(run_dir: Path, stages: dict[str, dict], records: dict[str, dict], headline: dict) -> list[dict]:
    entries, order = [], list(stages)
    known = [(stage, folder) for stage, folder in replaced_folders(run_dir) if stage in stages]
    for stage, folder in sorted(known, key=lambda pair: order.index(pair[0])):
        ended, recorded = _object(folder / "stage.json"), _object(folder / RECORD)
        before = {**ended, **recorded, "seconds": ended.get("seconds") or recorded.get("seconds")}
        own = _eval_folders([folder / "evals", folder.parent / "evals"], (stage, folder.name))
        now = {name: (run_dir / "evals" / name, records[name]) for name in records if records[name]["stage"] == stage}
        entry = _entry(stage, f"{PREVIOUS}/{folder.name}", before, stages[stage], own, now, headline)
        entries.append(entry | {"replaced": True, "finished": bool(ended)})
    return entries


def _variants(run_dir: Path, stages: dict[str, dict], records: dict[str, dict], headline: dict) -> list[dict]:
    """Stages with the method and the parent of an earlier stage: one recipe run in several folders."""
    entries = []
    for name, stage in stages.items():
        first = _varied(name, stages)
        if first is None or stage.get("rows"):  # rows are not compared
            continue
        old, new = (
            {one: (run_dir / "evals" / one, record) for one, record in records.items() if record["stage"] == side}
            for side in (first, name)
        )
        entry = _entry(name, name, stages[first], stage, old, new, headline)
        entries.append(entry | {"other": first, "replaced": False, "finished": stage.get("status") == "done"})
    return entries


def _varied(name: str, stages: dict[str, dict]) -> str | None:
    """The first stage that a stage is a variant of: with its method and parent, under a name that begins the same."""
    for other, stage in stages.items():
        if other == name:
            return None
        same = all(stage.get(key) == stages[name].get(key) for key in ("method", "parent"))
        if same and stage.get("method") and name.startswith(other):
            return other
    return None


Evals = dict[str, tuple[Path, dict]]  # name -> folder and run.json


def _entry(name: str, folder: str, before: dict, after: dict, old: Evals, new: Evals, headline: dict) -> dict:
    rows, refused = _comparisons(old, new, headline)
    known = before.get("recipe") is not None and after.get("recipe") is not None
    ended = [stage.get("metrics") or {} for stage in (before, after)]
    return {
        "stage": name,
        "other": folder,
        "folder": folder,
        "changes": changed_keys(before["recipe"], after["recipe"]) if known else None,
        "seed": before.get("seed"),
        "seconds": before.get("seconds"),
        "metrics": [
            {"name": key, "a": ended[0].get(key), "b": ended[1].get(key)}
            for key in SHOWN_METRICS
            if isinstance(ended[0].get(key), int | float) and isinstance(ended[1].get(key), int | float)
        ],
        "comparisons": rows,
        "not_compared": refused,
    }


def _comparisons(old: Evals, new: Evals, headline: dict) -> tuple[list[dict], list[str]]:
    """Rows for the eval runs of both sides that measure the same thing, and why others cannot be compared."""
    rows, refused = [], []
    for folder, record in new.values():
        for other, earlier in old.values():
            if measurement(earlier) != measurement(record):
                continue
            represent = headlines(record, headline.get(record["suite"]))
            try:
                found = compare(load_run(other), load_run(folder))
            except UserError as error:
                refused.append(f"{record['suite']}, {record['format']}: {error.problem}")
                continue
            rows += [row | {"headline": (row["task"], row["metric"]) in represent} for row in found]
    return rows, refused


def _eval_folders(places: list[Path], stages: tuple[str, ...]) -> Evals:
    """The eval runs in some folders that belong to one of the stages."""
    found = {}
    for path in [path for place in places for path in place.glob("*/run.json")]:
        try:
            found[path.parent.name] = (path.parent, read_record(path.parent))
        except UserError as error:
            logger.warning("passed over: %s", error.problem)
    return {name: pair for name, pair in sorted(found.items()) if pair[1].get("stage") in stages}


def _object(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}
