"""The terminal: whether it can redraw a line, the console that progress and log share, and the bars of libraries.

Progress goes to stderr, results to stdout: `align run recipes/tiny > log.txt` still shows progress on the terminal.
rich is imported when a console is opened: `align --help` needs none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Read by tqdm, datasets, huggingface_hub and (the last) transformers when they are imported.
BARS = ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")
# Loggers with a handler of their own, which keeps the stderr that it found; the root's is "".
LOGGERS = ("", "transformers", "datasets", "huggingface_hub", "lm_eval")


def can_redraw(stream: IO[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a stream is a terminal on which a line may be redrawn: not with NO_COLOR, nor with TERM=dumb."""
    dumb = environment.get("TERM", "").lower() in ("dumb", "unknown")
    return stream.isatty() and not dumb and not environment.get("NO_COLOR")


def silence_bars(stream: IO[str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch off the progress bars of libraries that are not imported yet, if a line of the stream can't be redrawn.

    Variables that the user has set are left alone.
    """
    if not can_redraw(stream, environment):
        for name in BARS:
            environment.setdefault(name, "1")


def open_console(stream: IO[str] | None = None) -> Console:
    """Return the console for progress: by default stderr's, which redraws lines only on a terminal that can.

    Long lines are left to the terminal to wrap, so that a path can be copied whole.
    """
    from rich.console import Console

    class KeptConsole(Console):
        """A console whose closed pipe is an error that can be caught: rich's own ends the process."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = stream or sys.stderr
    redraws = can_redraw(stream)
    plain = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
    return KeptConsole(file=stream, force_terminal=redraws, force_interactive=redraws, **plain)  # type: ignore[arg-type]


@contextlib.contextmanager
def log_through(stream: IO[str]) -> Iterator[None]:
    """Have the loggers that write to a stream write to what has replaced it as sys.stderr, while a line is redrawn."""
    handlers = [handler for name in LOGGERS for handler in logging.getLogger(name).handlers]
    moved = [one for one in handlers if isinstance(one, logging.StreamHandler) and one.stream is stream]
    for handler in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(stream)
