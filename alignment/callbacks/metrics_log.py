"""metrics.jsonl: what a trainer logs, as if the stage had never been interrupted."""

import json
import math
from itertools import pairwise
from pathlib import Path

from accelerate import PartialState
from transformers import TrainerCallback, TrainerState

from alignment.callbacks.clock import StageClock
from alignment.durable.atomic import write_text


class MetricsWriter(TrainerCallback):
    """Appends every log to metrics.jsonl, a JSON object a line.

    Args:
        lines: how many lines to keep of what an interrupted stage left, the rest being of steps that are done again.
    """

    def __init__(self, path: Path, clock: StageClock, lines: int = 0):
        kept = path.read_bytes().splitlines(keepends=True)[:lines] if path.exists() else []
        self.path, self.clock, self.lines = path, clock, len(kept)
        self.earlier_steps, self.earlier_loss, self.earlier_tokens = 0, 0.0, 0
        if PartialState().is_main_process:
            write_text(path, b"".join(kept).decode())

    def on_train_begin(self, args, state, control, **kwargs):
        """Remember what a training that goes on had done before."""
        self.earlier_steps = state.global_step
        self.earlier_loss = summed_loss(state.log_history)
        self.earlier_tokens = next((e["num_tokens"] for e in reversed(state.log_history) if "num_tokens" in e), 0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        whole = self.of_the_whole(logs, state)
        logs.update(whole)
        state.log_history[-1].update(whole)
        self.write(state, logs)

    def write(self, state: TrainerState, values: dict) -> None:
        """Append a line with those of the values that are finite numbers: JSON has no others."""
        if not state.is_world_process_zero:
            return
        line = {"step": state.global_step, "epoch": state.epoch, "seconds": self.clock.seconds}
        numbers = {key: one for key, one in values.items() if isinstance(one, int | float) and math.isfinite(one)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **numbers}) + "\n")
        self.lines += 1

    def of_the_whole(self, logs: dict, state: TrainerState) -> dict[str, float]:
        """The figures of a log that trainers give for the time since training went on, for all of the training.

        TRL's trainers count tokens from 0 again; those that the state counts go on. Trainer's train_loss is the mean
        over the steps since.
        """
        whole = {}
        for key in ("num_tokens", "eval_num_tokens"):
            if key in logs and not (state.num_input_tokens_seen and logs[key] == state.num_input_tokens_seen):
                whole[key] = logs[key] + self.earlier_tokens
        if "train_loss" in logs and self.earlier_steps:
            steps = state.global_step
            whole["train_loss"] = (self.earlier_loss + logs["train_loss"] * (steps - self.earlier_steps)) / steps
        return whole


def summed_loss(log_history: list[dict]) -> float:
    """The sum of the losses of all logged steps: each log has the mean over the steps since the one before."""
    logged = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    return sum(loss * (step - before) for (before, _), (step, loss) in pairwise([(0, 0.0), *logged]))
