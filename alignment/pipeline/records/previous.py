"""RUN_DIR/previous: the results that reruns replaced, STAGE-1, STAGE-2, ..., oldest first. Nothing is deleted."""

import re
from pathlib import Path
from typing import Any

from alignment.durable.atomic import write_json
from alignment.durable.read import read_json
from eval.harness.store import is_whole

PREVIOUS = "previous"
RECORD = "record.json"  # the entry that pipeline.json had, with the recipe
OWN_RECIPE = "recipe.yaml"  # of a stage that was run without a recipe, in its folder: it is read and written there


def holds_results(folder: Path) -> bool:
    """Whether a stage's folder holds anything but its recipe."""
    return folder.is_dir() and any(path.name != OWN_RECIPE for path in folder.iterdir())


def set_aside(name: str, run_dir: Path, entry: dict[str, Any] | None = None) -> Path | None:
    """Move a stage's folder and its evaluations to RUN_DIR/previous/NAME-N, and return it; None if it is empty.

    The stage's own recipe stays: it may have been changed for the next run, and `entry` has that of the last.

    Args:
        entry: the stage's entry in pipeline.json, which is kept with the folder: the report shows what has changed.
    """
    folder = run_dir / name
    if not holds_results(folder):
        return None
    kept = next_place(run_dir / PREVIOUS, name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(kept)
    if (kept / OWN_RECIPE).is_file():
        folder.mkdir()
        (kept / OWN_RECIPE).rename(folder / OWN_RECIPE)
    if entry:
        write_json(kept / RECORD, entry)
    for path in (run_dir / "evals").glob(f"{name}-*/run.json"):
        if is_whole(path.parent) and read_json(path).get("stage") == name:  # not those of ppo-brief, if name is ppo
            (kept / "evals").mkdir(exist_ok=True)
            path.parent.rename(kept / "evals" / path.parent.name)
    return kept


def next_place(previous: Path, name: str) -> Path:
    """NAME-N with a number above all existing ones."""
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    taken = [int(match[1]) for path in previous.glob(f"{name}-*") if (match := pattern.fullmatch(path.name))]
    return previous / f"{name}-{max(taken, default=0) + 1}"
