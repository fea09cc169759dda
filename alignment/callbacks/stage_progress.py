"""Show a stage's training as one line of progress, instead of transformers' bars and printed dicts.

TRL's RichProgressCallback draws a panel of two bars and a table, and nothing useful on a pipe.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import has_length
from transformers.utils import logging as transformers_logging

from alignment.progress import ProgressLine
from alignment.text import duration

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import Trainer

# Key of a log -> its name. The first group whose first key is logged is shown: the loss of PPO and GRPO says little.
FIGURES = (
    {"reward": "reward", "kl": "KL"},
    {
        "loss": "loss",
        "bits_per_byte": "bits per byte",
        "accuracy": "accuracy",
        "margin": "margin",
        "rewards/accuracies": "accuracy",
        "rewards/margins": "margin",
    },
)


class StageProgress(TrainerCallback):
    """Shows step, main figures, tokens per second and time left of a training; its evaluations too.

    Only the main process prints. `close` ends the line, whether or not training succeeded. Until then transformers
    draws no bars: each step checkpoint would leave one above the line.

    Args:
        name: the stage's name.
        console: default: stderr's.
        clock: returns seconds.
    """

    def __init__(self, name: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self.name, self.console, self.clock = name, console, clock
        self.line: ProgressLine | None = None
        self.had_bars = False
        self.figures: list[str] = []
        self.evaluating_since: float | None = None
        self.evaluated = 0

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        self.had_bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        total = max(state.max_steps, state.global_step)  # max_steps is 0 if training had ended before a resume
        self.line = ProgressLine(self.name, total, done=state.global_step, console=self.console, clock=self.clock)
        self.training_since, self.evaluation_seconds = self.clock(), 0.0
        self.tokens_before = logged_tokens(state.log_history, state)

    def on_step_end(self, args, state, control, **kwargs):
        if self.line:
            self.line.advance(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        found = figures_of(logs)
        if not self.line or not found:
            return
        # PPO logs a reward for the steps that begin a rollout, and a loss alone for the others.
        if not self.figures or named_alike(found, self.figures):
            self.figures = found
        self.line.report([*self.figures, *self._pace(logs, state)])

    def _pace(self, logs: Mapping[str, Any], state: Any) -> list[str]:
        """Tokens per second since training began or resumed, without evaluations."""
        trained = logged_tokens([logs], state) - self.tokens_before
        seconds = self.clock() - self.training_since - self.evaluation_seconds
        return [f"{trained / seconds:,.0f} tokens/s"] if trained > 0 and seconds > 0 else []

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not self.line:
            return
        if self.evaluating_since is None:
            self.evaluating_since, self.evaluated = self.clock(), 0
        self.evaluated += 1
        batches = len(eval_dataloader) if eval_dataloader is not None and has_length(eval_dataloader) else 0
        total = f"/{batches:,}" if self.evaluated <= batches else ""
        self.line.advance(self.line.done, f"evaluating {self.evaluated:,}{total}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not self.line:
            return
        now = self.clock()
        seconds, self.evaluating_since = now - (self.evaluating_since or now), None
        self.evaluation_seconds += seconds
        found = figures_of({key.removeprefix("eval_"): value for key, value in (metrics or {}).items()})
        took = duration((metrics or {}).get("eval_runtime", seconds))
        self.line.advance(self.line.done)
        self.line.say(f"evaluation: {', '.join(found) or 'done'} ({took})")

    def close(self) -> None:
        """End the line of progress."""
        line, self.line = self.line, None
        if line:
            line.close()
        if self.had_bars:
            transformers_logging.enable_progress_bar()


def replace_printer(trainer: Trainer) -> None:
    """Remove the callback that prints each log as a dict, which Trainer adds if `disable_tqdm` is true."""
    trainer.remove_callback(PrinterCallback)


def logged_tokens(logs: Sequence[Mapping[str, Any]], state: Any) -> float:
    """Return the newest count of trained tokens in logs, oldest first; else the trainer state's."""
    found = (entry["num_tokens"] for entry in reversed(logs) if "num_tokens" in entry)
    return next(found, state.num_input_tokens_seen)


def figures_of(logs: Mapping[str, Any]) -> list[str]:
    """Return the main figures of a log as text: `loss 1.234`."""
    for group in FIGURES:
        if next(iter(group)) in logs:
            found = {name: logs[key] for key, name in group.items() if isinstance(logs.get(key), int | float)}
            return [f"{name} {number(value)}" for name, value in found.items()]
    return []


def named_alike(some: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether two lists of figures begin with the same name."""
    return some[0].split()[0] == others[0].split()[0]


def number(value: float) -> str:
    """Return a figure in three decimals, or in powers of ten if those would not show it."""
    plain = not math.isfinite(value) or value == 0 or 0.001 <= abs(value) < 100_000
    return f"{value:.3f}" if plain else f"{value:.2e}"
