"""Step checkpoints of a stage, TRAINER/checkpoint-N: which of them are whole, which one to go on from, which to keep.

A trainer writes them in place, file by file. One is complete once its manifest stands there, which is written last.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from alignment.durable.atomic import write_json
from alignment.durable.manifest import MANIFEST, damage

PREFIX = "checkpoint-"
PROGRESS_FILE = "progress.json"
STATE_FILE = "trainer_state.json"  # transformers' own
logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a stage had come at a step checkpoint: what a stage keeps, and transformers' Trainer does not.

    Only a step checkpoint that holds all of the training has one.

    `sampler_rng` is torch's random state as it was when the epoch began, in hexadecimal: samplers that draw from it
    (group_by_length) give the same order again only from there. `trained` says that no step is left.
    """

    metrics_lines: int = 0
    seconds: float = 0.0
    peak_memory_gb: float = 0.0
    sampler_rng: str = ""
    trained: bool = False

    @classmethod
    def read(cls, checkpoint: Path | None) -> "Progress":
        """What was written with a step checkpoint; of none, that nothing was done yet."""
        if checkpoint is None:
            return cls()
        return cls(**json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8")))

    def write(self, checkpoint: Path) -> None:
        write_json(checkpoint / PROGRESS_FILE, asdict(self), sync=False)  # the manifest comes after, and syncs


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))


def all_steps(trainer_dir: Path) -> list[Path]:
    """The step checkpoints of a trainer's folder by step, complete or not."""
    found = [path for path in trainer_dir.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=step_of)


def newest_complete(trainer_dir: Path) -> Path | None:
    """The step checkpoint to go on from, as far as can be told without reading it."""
    expected = (MANIFEST, PROGRESS_FILE)
    steps = reversed(all_steps(trainer_dir))
    return next((path for path in steps if all((path / name).is_file() for name in expected)), None)


def newest_intact(trainer_dir: Path) -> Path | None:
    """The step checkpoint to go on from; newer ones, which are incomplete or damaged, are named and removed."""
    for checkpoint in reversed(all_steps(trainer_dir)):
        problems = damage(checkpoint) or damage_of_best(checkpoint)
        if not problems and not (checkpoint / PROGRESS_FILE).is_file():
            problems = ["it holds a part of the training alone, as the recipe says"]
        if not problems:
            return checkpoint
        logger.warning("%s is passed over for the one before, and removed: %s", checkpoint, "; ".join(problems))
        shutil.rmtree(checkpoint)
    return None


def damage_of_best(checkpoint: Path) -> list[str]:
    """What is wrong with the best step checkpoint so far, which the end of training may load."""
    best = best_beside(checkpoint)
    if best is None or best == checkpoint:
        return []
    return [f"{best.name}, the best so far: {problem}" for problem in damage(best)]


def best_beside(checkpoint: Path) -> Path | None:
    """The best step checkpoint that a step checkpoint names, by its place in the same folder."""
    named = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")).get("best_model_checkpoint")
    return checkpoint.with_name(Path(named).name) if named else None


def last_step(checkpoint: Path) -> int:
    """The step at which the training that wrote a step checkpoint would have ended."""
    return json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["max_steps"]


def prune(trainer_dir: Path, limit: int | None, protected: Iterable[Path]) -> None:
    """Remove the oldest step checkpoints beyond a limit (None: none), but never one of the protected."""
    steps, kept = all_steps(trainer_dir), set(protected)
    surplus = 0 if limit is None else len(steps) - max(limit, len(kept))
    for checkpoint in [path for path in steps if path not in kept][: max(surplus, 0)]:
        shutil.rmtree(checkpoint)
