"""Stop a run before its end: by a signal, or when its time is up."""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from alignment.errors import Interrupted, UserError

REASONS = {
    signal.SIGINT: "interrupted (SIGINT)",
    signal.SIGTERM: "asked to end (SIGTERM)",
    signal.SIGXCPU: "the time of --max-time is up",
}
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str | None) -> float | None:
    """Seconds of a duration such as 2h30m, 45m, 1.5h or 90s; None stays None.

    Raises:
        UserError: the text is not a duration, or is zero.
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
    """The status in the record of work that ended with this error."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


@contextlib.contextmanager
def stopping(run_dir: Path, max_seconds: float | None = None, *, fresh: bool = False) -> Iterator[None]:
    """Let SIGXCPU, the signal of a time limit, end the run, and send it after `max_seconds`.

    Whatever the signal, the Interrupted that is raised says how to resume. During training, the trainer's callback
    handles the signals.

    Args:
        fresh: the run started over (`--fresh`), and would do so again if the command were repeated as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
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
        again = "repeat the command without --fresh" if fresh else "repeat the command"
        raise Interrupted(signum, f"{where}; what is finished in {run_dir} is kept: {again} to resume") from stop
    finally:
        timer.cancel()
        signal.signal(signal.SIGXCPU, before)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signum)
