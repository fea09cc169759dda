"""Runs that stop before their end: by a signal, or because their time is up."""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from alignment.errors import Interrupted, UserError

REASONS = {
    signal.SIGINT: "interrupted (SIGINT)",
    signal.SIGTERM: "asked to end (SIGTERM)",
    signal.SIGXCPU: "the time of --max-time is up",
}
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


def seconds(text: str | None) -> float | None:
    """A duration such as 2h30m, 45m, 1.5h or 90s; None stays None.

    Raises:
        UserError: it is none, or no time at all.
    """
    if text is None:
        return None
    found = DURATION.fullmatch(text.replace(" ", ""))
    hours, minutes, rest = (float(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + rest
    if total == 0:
        raise UserError(
            "--max-time takes a duration", got=repr(text), expected="hours, minutes, seconds: 2h30m, 45m, 90s"
        )
    return total


def ended(error: BaseException) -> str:
    """What the record says of work that ended with this error."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


@contextlib.contextmanager
def stopping(run_dir: Path, max_seconds: float | None = None) -> Iterator[None]:
    """Let SIGXCPU, the signal of a time limit, end the work, and send it once so many seconds have passed.

    Whatever the signal, the interruption that leaves here says how the run goes on. Training takes the signals itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # python delivers signals to the main thread alone
        return
    timer = threading.Timer(max_seconds or 0, os.kill, (os.getpid(), signal.SIGXCPU))
    timer.daemon = True
    before = signal.signal(signal.SIGXCPU, _interrupt)
    try:
        if max_seconds is not None:
            timer.start()
        yield
    except KeyboardInterrupt as stop:
        signum = stop.args[0] if stop.args else signal.SIGINT
        where = getattr(stop, "message", REASONS[signum])
        raise Interrupted(signum, f"{where}; what is finished in {run_dir} stands: the same command goes on") from stop
    finally:
        timer.cancel()
        signal.signal(signal.SIGXCPU, before)


def _interrupt(signum, frame) -> None:
    raise KeyboardInterrupt(signum)
