"""Stop on a signal: training saves and ends at the next step from which it can resume."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from transformers import TrainerCallback, TrainerState, TrainingArguments

from alignment.callbacks.processes import any_process
from alignment.errors import Interrupted

REASONS: dict[int, str] = {
    signal.SIGINT: "interrupted (SIGINT)",
    signal.SIGTERM: "asked to end (SIGTERM)",
    signal.SIGXCPU: "the time is up",
}
logger = logging.getLogger(__name__)


class StopOnSignal(TrainerCallback):
    """Ends training after a signal, once a step checkpoint is written: after the step, in PPO after the rollout.

    A second signal ends training at once. An evaluation that has begun is finished first, as the step checkpoint holds
    its outcome.

    Args:
        request_save: requests a checkpoint at the next step from which training can resume. The callback that writes
            the checkpoint comes after this one.
    """

    def __init__(self, request_save: Callable[[], None]):
        self.request_save = request_save
        self.signum: int | None = None
        self.saved_at: int | None = None
        self.announced = False

    def on_step_end(self, args, state, control, **kwargs):
        if not any_process(self.signum is not None, args):
            return
        if not getattr(args, "resumable", True):  # a checkpoint would be useless
            self.interrupt(f"ended at step {state.global_step} of {state.max_steps}; the next run starts over")
        self.request_save()
        unit = getattr(args, "steps_per_rollout", 1)
        if state.global_step % unit and not self.announced:
            last = -(-state.global_step // unit) * unit
            logger.warning("%s: will end after this rollout, at step %d", self.reason, last)
            self.announced = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if any_process(self.signum is not None, args):
            self.request_save()

    def on_save(self, args, state, control, **kwargs):
        if any_process(self.signum is not None, args):
            self.saved_at = state.global_step

    def on_step_begin(self, args, state, control, **kwargs):
        self.end(state)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.end(state)

    def end(self, state: TrainerState) -> None:
        """Raise if a signal came and the current state is saved."""
        if self.saved_at == state.global_step and self.saved_at:
            self.interrupt(f"saved at step {state.global_step} of {state.max_steps}")

    def end_after_training(self, args: TrainingArguments, state: TrainerState) -> None:
        """Raise if a signal came during or after the last step: the closing evaluation may take long."""
        self.end(state)
        if any_process(self.signum is not None, args):
            self.interrupt("at the end of training")

    def interrupt(self, where: str) -> None:
        """End training with the reason and the place."""
        raise Interrupted(self.signum or signal.SIGTERM, f"{self.reason}: {where}")

    @property
    def reason(self) -> str:
        """The signal in words; SIGTERM if only another process received it."""
        return REASONS[self.signum or signal.SIGTERM]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while training runs."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        before = {signum: signal.signal(signum, self.note) for signum in REASONS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def note(self, signum: int, frame: FrameType | None) -> None:
        """Remember the first signal; end training at the second."""
        if self.signum is not None:
            raise Interrupted(signum, f"{REASONS[signum]} for the second time: ended at once")
        self.signum = signum
