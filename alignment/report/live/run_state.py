"""What a run directory says about a run in progress, read from pipeline.json, stage.json and metrics.jsonl."""

import json
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.durable.lock import is_locked
from alignment.errors import UserError
from alignment.pipeline.recipes.pipeline_file import PIPELINE_FILE
from alignment.pipeline.records.record import FILE
from alignment.pipeline.stage_spec import method_of
from alignment.report.labels import makes_rows
from alignment.report.runs.run_files import figure_of, read_pipeline, read_stage
from alignment.stages import PARTS

WAITING, RUNNING, ENDED, STOPPED, DIED = "waiting", "running", "ended", "stopped", "died"
OVER = (ENDED, STOPPED, DIED)
DEFAULT_EPOCHS = 3.0  # num_train_epochs of transformers and TRL
FEWEST_ROWS = 3  # logged rows before a rate is trusted


@dataclass(frozen=True)
class StageState:
    """A stage of a run.

    Attributes:
        status: running, done, failed, interrupted.
        seconds: of training, by the record or by the newest log.
        step, steps: the newest logged step, and the last step if it is known.
        share: trained share of the stage, 0 to 1; None if unknown.
        remaining: seconds to the end of training, from the rate of the logged rows; None if unknown.
        rows: the lines of metrics.jsonl.
        error: why it failed.
        metrics: the figures with which it ended.
        parts: the parts of its rows that a data stage has made so far; None for other stages.
    """

    name: str
    status: str
    seconds: float | None = None
    step: int | None = None
    steps: int | None = None
    share: float | None = None
    remaining: float | None = None
    rows: list[dict] = field(default_factory=list)
    error: str | None = None
    metrics: dict = field(default_factory=dict)
    parts: int | None = None


@dataclass(frozen=True)
class RunState:
    """A run directory at one time.

    Attributes:
        status: WAITING (no run there yet), RUNNING, ENDED, STOPPED (failed or interrupted) or DIED (a stage is recorded
            as running, and no process holds the run directory).
        evals: [{name, status, seconds, error}].
        resume: the commands, by what was run, one of which resumes the run if it is over and unfinished.
    """

    run_dir: Path
    status: str
    name: str = ""
    stages: list[StageState] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    resume: dict[str, str] = field(default_factory=dict)

    @property
    def current(self) -> StageState | None:
        """The stage that is running, failed or was interrupted."""
        return next((stage for stage in self.stages if stage.status != "done"), None)


def read_state(run_dir: Path, now: float | None = None) -> RunState:
    """Read the state of a run directory, which may not exist yet.

    Args:
        now: the time, in seconds of the epoch; default: the clock.

    Raises:
        UserError: pipeline.json is damaged, or the folder holds something other than a run.
    """
    _require_run(run_dir)
    record = _record(run_dir)
    if record is None:
        return RunState(run_dir, WAITING)
    stages = [_stage(run_dir, name, entry, now or time.time()) for name, entry in record["stages"].items()]
    evals = [{"name": name} | entry for name, entry in record["evals"].items()]
    statuses = [stage.status for stage in stages] + [entry.get("status") for entry in evals]
    status = _status(run_dir, statuses)
    resume = _resume(run_dir, record, stages) if status in (STOPPED, DIED) else {}
    return RunState(run_dir, status, record.get("name") or run_dir.resolve().name, stages, evals, resume)


def _require_run(run_dir: Path) -> None:
    """Raise for a folder with content but without a run, unless a process is making one there."""
    if "\0" in str(run_dir):
        raise UserError(f"{str(run_dir)!r} is not a run directory", got="a null byte", expected="a path")
    if not run_dir.is_dir() or (run_dir / FILE).exists():
        return
    inside = sorted(path.name for path in run_dir.iterdir() if not path.name.startswith("."))
    if inside and not is_locked(run_dir):
        runs = sorted(path.parent for path in run_dir.glob(f"*/{FILE}"))
        raise UserError(
            f"{run_dir} is not a run directory",
            got=f"a folder without {FILE} ({', '.join(inside[:5])})",
            expected="the --output_dir of `align run`, which need not exist yet",
            fix=f"align watch {shlex.quote(str(runs[-1]))}" if runs else None,
        )


def _record(run_dir: Path) -> dict[str, Any] | None:
    """pipeline.json; None if it is not there yet."""
    try:
        return read_pipeline(run_dir / FILE)
    except FileNotFoundError:
        return None


def _status(run_dir: Path, statuses: list[Any]) -> str:
    """The status of a run from those of its stages and evaluations, and from its lock."""
    if is_locked(run_dir):
        return RUNNING
    if "running" in statuses:
        # The process may have ended between the two readings: the record is read once more.
        again = _record(run_dir) or {"stages": {}, "evals": {}}
        statuses = [entry.get("status") for entry in (*again["stages"].values(), *again["evals"].values())]
    if "running" in statuses:
        return DIED
    return STOPPED if {"failed", "interrupted"} & set(statuses) else ENDED


def _stage(run_dir: Path, name: str, entry: dict, now: float) -> StageState:
    status = entry.get("status") or "done"
    if status == "done":
        return StageState(
            name, status, figure_of(entry.get("seconds")), metrics=_metrics(run_dir / name / "stage.json")
        )
    recipe, log = dict(entry.get("recipe") or {}), run_dir / name / "metrics.jsonl"
    if (recorded := figure_of(entry.get("steps"))) is not None:
        recipe["max_steps"] = recorded  # as the trainer counts them
    if makes_rows(name):
        parts = len(list((run_dir / name / PARTS).glob("*.jsonl")))
        return StageState(name, status, figure_of(entry.get("seconds")), parts=parts, error=entry.get("error"))
    rows = read_rows(log)
    last = rows[-1] if rows else {}
    share, step = trained_share(recipe, last), last.get("step")
    steps = recipe.get("max_steps") if (recipe.get("max_steps") or 0) > 0 else None
    left = seconds_left(recipe, rows) if status == "running" else None
    if left is not None:
        left = max(0.0, left - max(0.0, now - log.stat().st_mtime))
    seconds = last.get("seconds", figure_of(entry.get("seconds")))
    return StageState(name, status, seconds, step, steps, share, left, rows, entry.get("error"))


def _metrics(path: Path) -> dict:
    """The figures with which a stage ended; empty while its folder is being replaced."""
    try:
        return read_stage(path).get("metrics") or {}
    except FileNotFoundError:
        return {}


def read_rows(path: Path) -> list[dict]:
    """The figures in the whole lines of a log that is being written.

    Lines that are not JSON objects are left out, and values that are not finite numbers.
    """
    try:
        content = path.read_bytes()
    except OSError:  # not there yet, or just being replaced
        return []
    rows = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append({key: value for key, value in row.items() if figure_of(value) is not None})
    return rows


def trained_share(recipe: dict, row: dict) -> float | None:
    """The trained share of a stage at a logged row, by its steps or its epochs; None if it is unknown."""
    steps, epoch = recipe.get("max_steps") or 0, row.get("epoch")
    if steps > 0 and row.get("step") is not None:
        return min(1.0, row["step"] / steps)
    if epoch is None:
        return None
    return min(1.0, epoch / float(recipe.get("num_train_epochs") or DEFAULT_EPOCHS))


def seconds_left(recipe: dict, rows: list[dict]) -> float | None:
    """Seconds from the newest logged row to the last step, at the mean rate since the first row; None if unknown."""
    timed = [(row["seconds"], share) for row in rows if "seconds" in row and (share := trained_share(recipe, row))]
    if len(timed) < FEWEST_ROWS or timed[-1][1] <= timed[0][1]:
        return None
    (begun, first), (latest, share) = timed[0], timed[-1]
    return (latest - begun) / (share - first) * (1 - share)


def _resume(run_dir: Path, record: dict, stages: list[StageState]) -> dict[str, str]:
    """What may have been run -> its command: the pipeline of the recipe folder, and the unfinished stage on its own."""
    inputs = [part for name, value in (record.get("inputs") or {}).items() for part in (f"--{name}", str(value))]
    folder, commands = str(record.get("recipe") or "RECIPE_DIR"), {}
    stage = next((stage.name for stage in stages if stage.status != "done"), None)
    if stage is None or (Path(folder) / PIPELINE_FILE).is_file():
        commands["the pipeline"] = shlex.join(["align", "run", folder, *inputs, "--output_dir", str(run_dir)])
    if stage is not None:
        recipe = str(record["stages"][stage].get("recipe_file") or "RECIPE")
        method = method_of(stage) or method_of(Path(recipe).stem) or "STAGE"
        place = str(run_dir / stage)
        commands["the stage alone"] = shlex.join(["align", method, recipe, *inputs, "--output_dir", place])
    return commands
