"""metrics.jsonl: the log of a stage's training, continuous over interruptions, and the faults it records."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerState

from alignment.callbacks.clock import StageClock
from alignment.durable.atomic import write_text
from alignment.durable.read import read_json_lines

FAULTS = {"skipped_step": "skipped_steps", "loss_spike": "loss_spikes"}  # key in metrics.jsonl -> key in stage.json


class MetricsWriter(TrainerCallback):
    """Appends every log to metrics.jsonl, one JSON object per line.

    Args:
        lines: number of existing lines to keep if the stage was interrupted; later lines belong to steps that are
            trained again.
    """

    def __init__(self, path: Path, clock: StageClock, lines: int = 0):
        kept = path.read_bytes().splitlines(keepends=True)[:lines] if path.exists() else []
        self.path, self.clock, self.lines = path, clock, len(kept)
        self.earlier_steps, self.earlier_loss, self.earlier_tokens = 0, 0.0, 0
        if PartialState().is_main_process:
            write_text(path, b"".join(kept).decode())

    def on_train_begin(self, args, state, control, **kwargs):
        """Remember steps, loss and tokens of the earlier attempts."""
        self.earlier_steps = state.global_step
        self.earlier_loss = summed_loss(state.log_history)
        self.earlier_tokens = next((e["num_tokens"] for e in reversed(state.log_history) if "num_tokens" in e), 0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        totals = self.totals(logs, state)
        logs.update(totals)
        state.log_history[-1].update(totals)
        self.write(state, logs)

    def write(self, state: TrainerState, values: dict[str, Any]) -> None:
        """Append a line with the values that are finite numbers: JSON has no others."""
        if not state.is_world_process_zero:
            return
        line = {"step": state.global_step, "epoch": state.epoch, "seconds": self.clock.seconds}
        numbers = {
            key: value for key, value in values.items() if isinstance(value, int | float) and math.isfinite(value)
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **numbers}) + "\n")
        self.lines += 1

    def totals(self, logs: dict[str, Any], state: TrainerState) -> dict[str, float]:
        """Return the figures of a log that a resumed trainer counts from 0, as totals over all attempts.

        TRL's trainers count tokens from 0 when training resumes; the count in the trainer's state continues. Trainer's
        train_loss is the mean over the steps since training resumed.
        """
        totals: dict[str, float] = {}
        for key in ("num_tokens", "eval_num_tokens"):
            if key in logs and not (state.num_input_tokens_seen and logs[key] == state.num_input_tokens_seen):
                totals[key] = logs[key] + self.earlier_tokens
        if "train_loss" in logs and self.earlier_steps:
            steps = state.global_step
            totals["train_loss"] = (self.earlier_loss + logs["train_loss"] * (steps - self.earlier_steps)) / steps
        return totals


def summed_loss(log_history: list[dict[str, Any]]) -> float:
    """Return the sum of the losses of all logged steps: each log has the mean over the steps since the previous log."""
    logged = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    return sum(loss * (step - before) for (before, _), (step, loss) in pairwise([(0, 0.0), *logged]))


def count_faults(metrics_file: Path) -> dict[str, int]:
    """Return how often metrics.jsonl records each kind of fault, over all attempts that led to the result."""
    lines = read_json_lines(metrics_file)
    return {name: sum(key in line for line in lines) for key, name in FAULTS.items()}
