"""The line of progress: redrawn in place on a terminal, elsewhere a short plain line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from alignment.console import log_through, open_console
from alignment.text import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

REDRAWN = 0.2  # seconds, at least, between two drawings of the line
PLAIN = 10.0  # seconds, at least, between two plain lines
BAR = (8, 30)  # the bar's width in characters: at least and at most
GAP = "  "


class ProgressLine:
    """One line of progress: name, done/total, figures, time left.

    The line is drawn by the caller's thread alone: a thread that draws could hold the console's lock while a data
    loader forks its workers. The cursor stays visible, as a killed process cannot bring it back.

    Args:
        name: the first word of the line.
        total: what `done` counts up to.
        done: where the count starts; the time left is estimated from what is done since.
        unit: follows the count.
        console: default: stderr's.
        first_after: seconds before the first plain line.
        transient: erase the line from the terminal at the end.
        clock: returns seconds.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        done: int = 0,
        unit: str = "",
        console: Console | None = None,
        first_after: float = 0.0,
        transient: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.name, self.total, self.done, self.unit, self.transient, self.clock = (
            name,
            total,
            done,
            unit,
            transient,
            clock,
        )
        self.console = console or open_console()
        self.redraws = self.console.is_interactive and not self.console.no_color
        self.figures: Sequence[str] = ()
        self.detail: str | None = None
        self.started, self.began_at = clock(), done
        self.shown_at = self.started - (REDRAWN if self.redraws else PLAIN - first_after)
        self.withheld = False
        self.lost = False
        self._open = contextlib.ExitStack()
        if self.redraws:
            self._attempt(self._start)

    def _start(self) -> None:
        from rich.live import Live

        stderr = sys.stderr
        # stdout's text is printed above the line, unless it goes to a file.
        self._live = self._open.enter_context(
            Live(
                get_renderable=self._drawn,
                console=self.console,
                auto_refresh=False,
                transient=self.transient,
                redirect_stdout=sys.stdout.isatty(),
            )
        )
        self.console.show_cursor(True)
        self._open.enter_context(log_through(stderr))
        self._live.refresh()

    def _attempt(self, write: Callable[[], object]) -> None:
        """Write, or give up the line rather than the work: the terminal or pipe may be closed, its disk full."""
        if self.lost:
            return
        try:
            write()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.lost = True
            with contextlib.suppress(OSError, ValueError):
                self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def advance(self, done: int, detail: str | None = None) -> None:
        """Set how much is done, and redraw the line if there is one.

        Args:
            detail: shown instead of the figures.
        """
        begins = detail is not None and self.detail is None
        self.done, self.detail = done, detail
        if self.redraws and (begins or self.clock() - self.shown_at >= REDRAWN):
            self._redraw()

    def count_to(self, done: int) -> None:
        """Set how much is done, and show it: in the redrawn line, or in a plain line if the last is long enough ago."""
        self.advance(done)
        if not self.redraws and self.clock() - self.shown_at >= PLAIN:
            self._print()

    def report(self, figures: Sequence[str] = ()) -> None:
        """Show figures: in the redrawn line, or in a plain line if the last is long enough ago."""
        self.figures, self.detail = figures, None
        if self.redraws:
            self._redraw()
        elif self.clock() - self.shown_at >= PLAIN:
            self._print()
        else:
            self.withheld = True

    def say(self, text: str) -> None:
        """Print a line that stays: above the redrawn line, or after the plain ones, with what was withheld of them."""
        if self.withheld:
            self._print()
        self._attempt(lambda: self.console.print(f"{self.name}{GAP}{self._count}{GAP}{text}"))

    def close(self) -> None:
        """Stop redrawing, with the line as it is, or print the last plain line if it was withheld."""
        self._attempt(self._open.close)
        if self.withheld and not self.transient:
            self._print()

    @property
    def _count(self) -> str:
        """How much of how much is done."""
        return f"{self.done:,}/{self.total:,}" + (f" {self.unit}" if self.unit else "")

    @property
    def _seconds_left(self) -> float | None:
        """The estimated time left, from the mean pace since the start; None before anything is done."""
        done = self.done - self.began_at
        return None if done <= 0 else (self.clock() - self.started) / done * (self.total - self.done)

    def _parts(self) -> list[str]:
        """The parts of the line after its name."""
        left = self._seconds_left
        rest = [self.detail] if self.detail else list(self.figures)
        return [self._count, *rest, *([f"{duration(left)} left"] if left and self.done < self.total else [])]

    def _redraw(self) -> None:
        self.shown_at = self.clock()
        self._attempt(lambda: self._live.refresh())

    def _print(self) -> None:
        self.shown_at, self.withheld = self.clock(), False
        self._attempt(lambda: self.console.print(GAP.join([self.name, *self._parts()])))

    def _drawn(self) -> Text:
        """The line with its bar, cut to the terminal's width."""
        from rich.text import Text

        text = GAP.join(self._parts())
        room = self.console.width - len(self.name) - len(text) - 3
        width = max(BAR[0], min(BAR[1], room))
        full = width * self.done // max(self.total, 1)
        utf = self.console.encoding.startswith("utf")
        stroke = "━" if utf else "#"
        blank = "━" if stroke == "━" else "."
        bar = [(stroke * full, "green"), (blank * (width - full), "bright_black")]
        line = Text.assemble(f"{self.name} ", *bar, f" {text}")
        line.truncate(self.console.width - 1, overflow="ellipsis" if utf else "crop")
        return line


def passing_line(name: str, total: int) -> ProgressLine:
    """Return a line for a piece of work within a verb: erased at its end, plain only if the work takes long."""
    return ProgressLine(name, total, first_after=PLAIN, transient=True)
