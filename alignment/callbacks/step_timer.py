"""Time the parts of an optimizer step with a Trainer callback."""

import contextlib
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

PARTS = ("data", "forward", "backward", "optimizer", "other")
FUSED = "forward and backward"  # for a compiled model, whose graph hooks would break
TRACED_STEPS = 3


class StepTimer(TrainerCallback):
    """Times a run of `warmup + 2 * steps` optimizer steps, and optionally traces three more.

    After the warm-up, `steps` steps are timed as a whole, without synchronising; in `steps` more the timer waits for
    the device at the end of each part. Work before a forward pass counts as other, work after it (the loss, clipping)
    as backward.

    Args:
        trace: folder for a Chrome trace by torch's profiler; None: no trace.
    """

    def __init__(self, steps: int, warmup: int, trace: Path | None = None):
        self.steps, self.warmup, self.trace = steps, warmup, trace
        self.first_seconds = 0.0  # the first step, in which kernels are chosen or compiled
        self.step_seconds = 0.0
        self.parts: dict[str, float] = defaultdict(float)
        self._hooks = contextlib.ExitStack()
        self._profiler: torch.profiler.profile | None = None

    @property
    def max_steps(self) -> int:
        """The number of steps that the run needs."""
        return self.warmup + 2 * self.steps + (TRACED_STEPS if self.trace else 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        self.config = model.config
        self._compiled = args.torch_compile
        if not self._compiled:
            self._hooks.callback(model.register_forward_pre_hook(lambda *_: self._before_pass()).remove)
            self._hooks.callback(model.register_forward_hook(lambda *_: self._after_pass()).remove)
        self._splits = self._passed = False
        self._begun = self._marked = self._now()

    def on_step_begin(self, args, state, control, **kwargs):
        self._mark("data")

    def on_substep_end(self, args, state, control, **kwargs):
        self._mark("backward")

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._mark("backward")

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._mark("optimizer")

    def on_step_end(self, args, state, control, **kwargs):
        self._mark("other")
        done = state.global_step
        if done == 1:
            self.first_seconds = self._now() - self._begun
        if done == self.warmup:
            self._begun = self._now()
        if done == self.warmup + self.steps:
            self.step_seconds = (self._now() - self._begun) / self.steps
            self._splits, self._marked = True, self._now()
        if done == self.warmup + 2 * self.steps:
            self._splits = False
            if self.trace:
                self._profiler = torch.profiler.profile()
                self._profiler.start()

    def on_train_end(self, args, state, control, **kwargs):
        self._hooks.close()
        if self._profiler is not None and self.trace is not None:
            self._profiler.stop()
            self.trace.mkdir(parents=True, exist_ok=True)
            self._profiler.export_chrome_trace(str(self.trace / "trace.json"))

    @property
    def split(self) -> dict[str, float]:
        """Mean seconds of each part of a step, in their order within a step."""
        return {part: self.parts[part] / self.steps for part in (*PARTS, FUSED) if part in self.parts}

    def _before_pass(self) -> None:
        """Mark the start of a forward pass; passes without gradients count in the part that contains them."""
        if torch.is_grad_enabled():
            self._mark("backward" if self._passed else "other")

    def _after_pass(self) -> None:
        """Mark the end of a forward pass with gradients."""
        if torch.is_grad_enabled():
            self._mark("forward")
            self._passed = True

    def _mark(self, part: str) -> None:
        """Mark the end of a part."""
        if part == "backward":
            self._passed = False
        if self._splits:
            now = self._now()
            self.parts[FUSED if part == "backward" and self._compiled else part] += now - self._marked
            self._marked = now

    def _now(self) -> float:
        """Return the time in seconds, once the device has finished its work."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
