"""Where the time of an optimizer step goes: a Trainer callback that looks at the clock between its parts."""

import contextlib
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback

PARTS = ("data", "forward", "backward", "optimizer", "other")
FUSED = "forward and backward"  # of a compiled model, whose hooks would break its graph
TRACED_STEPS = 3


class StepTimer(TrainerCallback):
    """Times a run of `warmup + 2 * steps` optimizer steps, and traces three more where it is asked to.

    After the warm-up, `steps` steps are timed as a whole, undisturbed; in as many more the device is waited for at the
    end of each part. What comes before a forward pass counts as other, what comes after it (the loss, clipping) as
    backward.

    Args:
        trace: folder for a Chrome trace of torch's profiler.
    """

    def __init__(self, steps: int, warmup: int, trace: Path | None = None):
        self.steps, self.warmup, self.trace = steps, warmup, trace
        self.first_seconds = 0.0  # of the first step, in which kernels are chosen or compiled
        self.step_seconds = 0.0
        self.parts: dict[str, float] = defaultdict(float)
        self._hooks = contextlib.ExitStack()
        self._profiler = None

    @property
    def max_steps(self) -> int:
        """How many steps the run has to have."""
        return self.warmup + 2 * self.steps + (TRACED_STEPS if self.trace else 0)

    def on_train_begin(self, args, state, control, model: nn.Module, **kwargs):
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
        if self._profiler is not None:
            self._profiler.stop()
            self.trace.mkdir(parents=True, exist_ok=True)
            self._profiler.export_chrome_trace(str(self.trace / "trace.json"))

    @property
    def split(self) -> dict[str, float]:
        """Seconds of each part of a step, in the order of a step."""
        return {part: self.parts[part] / self.steps for part in (*PARTS, FUSED) if part in self.parts}

    def _before_pass(self) -> None:
        """Passes without gradients belong to the part that they happen in."""
        if torch.is_grad_enabled():
            self._mark("backward" if self._passed else "other")

    def _after_pass(self) -> None:
        if torch.is_grad_enabled():
            self._mark("forward")
            self._passed = True

    def _mark(self, part: str) -> None:
        """The end of a part."""
        if part == "backward":
            self._passed = False
        if self._splits:
            now = self._now()
            self.parts[FUSED if part == "backward" and self._compiled else part] += now - self._marked
            self._marked = now

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
