"""A checkpoint's stage, parent and seed, and the folder of its eval runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.durable.read import read_json
from eval.comparison.find import ELSEWHERE


@dataclass(frozen=True)
class Place:
    """A checkpoint's place in its run directory.

    Attributes:
        stage: the stage that made it; outside a run directory, the name of its folder.
        parent: the stage that it started from, if known.
        folder: the folder of its eval runs.
        seed: the seed of its run directory.
    """

    stage: str
    parent: str | None
    folder: Path
    seed: int


def place_of(checkpoint: str | Path) -> Place:
    """Find a checkpoint's place by its path."""
    path = Path(checkpoint).resolve()
    if path.name != "checkpoint" or not path.parent.name:  # /checkpoint is in no run directory
        return Place(path.name or "root", None, ELSEWHERE, 0)
    run_dir = path.parents[1]
    parent = _read_key(path.parent / "stage.json", "parent")
    return Place(path.parent.name, parent, run_dir / "evals", _read_key(run_dir / "pipeline.json", "seed") or 0)


def _read_key(file: Path, key: str) -> Any:
    """A key's value in a JSON file; None if there is no such file or key."""
    return read_json(file).get(key) if file.exists() else None
