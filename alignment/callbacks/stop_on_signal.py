"""Stopping on request: a signal makes training save and end at the next place from which it can go on."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

from transformers import TrainerCallback, TrainerState, TrainingArguments

from alignment.callbacks.processes import any_process
from alignment.errors import Interrupted

REASONS = {
    signal.SIGINT: "interrupted (SIGINT)",
    signal.SIGTERM: "asked to end (SIGTERM)",
    signal.SIGXCPU: "the time is up",
}
logger = logging.getLogger(__name__)


class StopOnSignal(TrainerCallback):
    """Ends training after a signal, once it is saved: after the step, in PPO after the rollout.

    A second signal ends it at once, wherever it is. An evaluation that has begun is brought to its end before, since
    the step's checkpoint holds its outcome.

    Args:
        request_save: asks for a checkpoint at the next step from which training can go on. The callback that writes it
            comes after this one.
    """

    def __init__(self, request_save: Callable[[], None]):
        self.request_save = request_save
        self.signum: int | None = None
        self.saved_at: int | None = None
        self.told = False

    def on_step_end(self, args, state, control, **kwargs):
        if not any_process(self.signum is not None, args):
            return
        if not getattr(args, "resumable", True):  # a checkpoint would be of no use
            self.interrupt(f"ended at step {state.global_step} of {state.max_steps}, from its start next time")
        self.request_save()
        unit = getattr(args, "steps_per_rollout", 1)
        if state.global_step % unit and not self.told:
            last = -(-state.global_step // unit) * unit
            logger.warning("%s: ends with this rollout, at step %d", self.reason, last)
            self.told = True

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
        """Raise where training is saved as it is now, and was asked to stop."""
        if self.saved_at == state.global_step and self.saved_at:
            self.interrupt(f"saved at step {state.global_step} of {state.max_steps}")

    def end_after_training(self, args: TrainingArguments, state: TrainerState) -> None:
        """Raise for a signal that came with the last step or after it: the closing evaluation may take long."""
        self.end(state)
        if any_process(self.signum is not None, args):
            self.interrupt("at the end of training")

    def interrupt(self, where: str) -> None:
        raise Interrupted(self.signum or signal.SIGTERM, f"{self.reason}: {where}")

    @property
    def reason(self) -> str:
        return REASONS[self.signum or signal.SIGTERM]  # the signal may have come to another process

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for as long as training runs."""
        if threading.current_thread() is not threading.main_thread():
            yield  # python gives signals to the main thread alone
            return
        before = {signum: signal.signal(signum, self.note) for signum in REASONS}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def note(self, signum, frame) -> None:
        if self.signum is not None:
            raise Interrupted(signum, f"{REASONS[signum]}, the second time: ended at once")
        self.signum = signum
