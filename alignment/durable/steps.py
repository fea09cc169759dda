"""Step checkpoints of a stage, TRAINER/checkpoint-N: which are complete, which to resume from, which to keep.

A trainer writes the files of a step checkpoint in place; the checkpoint is complete once its manifest, the last file,
is written.
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
    """Progress of a stage at a step checkpoint, beyond what transformers' Trainer saves.

    Only step checkpoints with the complete state of training have it.

    Attributes:
        sampler_rng: torch's random state at the start of the epoch, in hexadecimal; samplers that draw from it
            (group_by_length) repeat their order only from this state.
        trained: whether training has ended.
    """

    metrics_lines: int = 0
    seconds: float = 0.0
    peak_memory_gb: float = 0.0
    sampler_rng: str = ""
    trained: bool = False

    @classmethod
    def read(cls, checkpoint: Path | None) -> "Progress":
        """Read the progress of a step checkpoint; without a checkpoint, return the initial progress."""
        if checkpoint is None:
            return cls()
        return cls(**json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8")))

    def write(self, checkpoint: Path) -> None:
        """Write the progress into a step checkpoint."""
        write_json(checkpoint / PROGRESS_FILE, asdict(self), sync=False)  # the manifest comes after, and syncs


def step_of(checkpoint: Path) -> int:
    """Return the step of a step checkpoint, from its name."""
    return int(checkpoint.name.removeprefix(PREFIX))


def all_steps(trainer_dir: Path) -> list[Path]:
    """Return all step checkpoints in a trainer's folder, complete or not, sorted by step."""
    found = [path for path in trainer_dir.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=step_of)


def newest_complete(trainer_dir: Path) -> Path | None:
    """Return the newest complete step checkpoint, without a check for damage."""
    expected = (MANIFEST, PROGRESS_FILE)
    steps = reversed(all_steps(trainer_dir))
    return next((path for path in steps if all((path / name).is_file() for name in expected)), None)


def newest_intact(trainer_dir: Path) -> Path | None:
    """Return the newest intact step checkpoint; newer incomplete or damaged ones are logged and removed."""
    for checkpoint in reversed(all_steps(trainer_dir)):
        problems = damage(checkpoint) or damage_of_best(checkpoint)
        if not problems and not (checkpoint / PROGRESS_FILE).is_file():
            problems = ["the recipe saves only the model, without the state of training"]
        if not problems:
            return checkpoint
        logger.warning("cannot resume from %s, which is removed: %s", checkpoint, "; ".join(problems))
        shutil.rmtree(checkpoint)
    return None


def damage_of_best(checkpoint: Path) -> list[str]:
    """Describe damage to the best step checkpoint so far, which the end of training may load."""
    best = best_beside(checkpoint)
    if best is None or best == checkpoint:
        return []
    return [f"{best.name}, the best so far: {problem}" for problem in damage(best)]


def best_beside(checkpoint: Path) -> Path | None:
    """Return the best step checkpoint that a step checkpoint names, located in the same folder."""
    named = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")).get("best_model_checkpoint")
    return checkpoint.with_name(Path(named).name) if named else None


def last_step(checkpoint: Path) -> int:
    """Return the last step of the training that wrote a step checkpoint."""
    return json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))["max_steps"]


def prune(trainer_dir: Path, limit: int | None, protected: Iterable[Path]) -> None:
    """Remove the oldest step checkpoints beyond a limit (None: no limit), except the protected ones."""
    steps, kept = all_steps(trainer_dir), set(protected)
    surplus = 0 if limit is None else len(steps) - max(limit, len(kept))
    for checkpoint in [path for path in steps if path not in kept][: max(surplus, 0)]:
        shutil.rmtree(checkpoint)
