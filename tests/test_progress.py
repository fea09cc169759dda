"""The line of progress: redrawn on a terminal, short plain lines elsewhere."""

import io
import logging
import sys

import pytest
from rich.console import Console

from alignment.console import BARS, can_redraw, open_console, silence_bars
from alignment.progress import PLAIN, ProgressLine, passing_line

ERASE, SHOW_CURSOR = "\x1b[2K", "\x1b[?25h"


class Screen(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool = True):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", *BARS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terminal(environment):
    return Console(file=io.StringIO(), force_terminal=True, width=80, soft_wrap=True)


def test_a_line_is_redrawn_in_place(terminal):
    clock = Clock()
    with ProgressLine("sft", 400, console=terminal, clock=clock) as line:
        clock.now = 60
        line.advance(120)
        line.report(["loss 1.234", "5,400 tokens/s"])
    text = terminal.file.getvalue()
    assert text.count("\n") == 1 and ERASE in text
    assert "120/400  loss 1.234  5,400 tokens/s  2 min 20 s left" in text.rsplit(ERASE, 1)[1]
    assert text.endswith(SHOW_CURSOR)


def test_drawing_is_not_repeated_for_every_step(terminal):
    clock = Clock()
    with ProgressLine("sft", 10_000, console=terminal, clock=clock) as line:
        for step in range(1000):
            clock.now = step / 1000
            line.advance(step)
    assert 4 <= terminal.file.getvalue().count(ERASE) <= 7


def test_the_log_is_printed_above_the_line_and_its_handlers_are_put_back(terminal, monkeypatch):
    stderr = Screen()
    monkeypatch.setattr(sys, "stderr", stderr)
    logger = logging.getLogger("transformers")
    handler = logging.StreamHandler()
    monkeypatch.setattr(logger, "handlers", [handler])
    long = "a path " + "x" * 200
    with ProgressLine("sft", 4, console=terminal) as line:
        logger.error(long)
        print("[bold] printed", file=sys.stderr)
        line.advance(4)
    text = terminal.file.getvalue()
    assert long in text and "[bold] printed\n" in text
    assert text.index(long) < text.rindex("4/4")
    assert handler.stream is sys.stderr is stderr and stderr.getvalue() == ""


def test_an_error_ends_the_line_before_it_is_reported(terminal):
    stderr = sys.stderr
    with pytest.raises(ValueError, match="out of luck"), ProgressLine("sft", 4, console=terminal) as line:
        line.advance(2)
        raise ValueError("out of luck")
    assert sys.stderr is stderr
    assert terminal.file.getvalue().endswith("\n" + SHOW_CURSOR)


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_narrow_terminal_gets_one_row(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, soft_wrap=True)
    with ProgressLine("sft", 400, console=console) as line:
        line.report(["loss 1.234", "accuracy 0.800", "margin 0.300", "5,400 tokens/s"])
    rows = console.file.getvalue().replace("\x1b[?25l", "").replace(SHOW_CURSOR, "").replace(ERASE, "").split("\r")
    assert max(len(row.strip()) for row in rows) < width


def test_a_pipe_gets_plain_lines_now_and_then():
    console, clock = open_console(Screen(is_terminal=False)), Clock()
    with ProgressLine("sft", 400, console=console, clock=clock) as line:
        for step in range(1, 101):
            clock.now = step
            line.advance(step)
            line.report([f"loss {step}.000"])
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "sft  1/400  loss 1.000  6 min 39 s left"
    assert lines[-1] == "sft  100/400  loss 100.000  5 min 00 s left"  # withheld, and printed at the end
    assert len(lines) == 100 / PLAIN + 1
    assert not set("\r\x1b") & set(console.file.getvalue())


def test_lines_that_stay_are_always_printed_after_what_was_withheld():
    console = open_console(Screen(is_terminal=False))
    with ProgressLine("sft", 4, console=console) as line:
        line.report(["loss 2.000"])
        line.report(["loss 1.500"])
        line.say("evaluation: loss 1.000")
    printed = console.file.getvalue().splitlines()
    assert printed == ["sft  0/4  loss 2.000", "sft  0/4  loss 1.500", "sft  0/4  evaluation: loss 1.000"]


def test_the_time_left_counts_from_where_the_work_was_resumed():
    console, clock = open_console(Screen(is_terminal=False)), Clock()
    with ProgressLine("sft", 100, done=80, console=console, clock=clock) as line:
        clock.now = 30
        line.advance(90)
        line.report(["loss 1.000"])
    assert console.file.getvalue() == "sft  90/100  loss 1.000  30 s left\n"


def test_short_work_within_a_verb_leaves_no_plain_line(monkeypatch):
    screen = Screen(is_terminal=False)
    monkeypatch.setattr(sys, "stderr", screen)
    with passing_line("replies", 2) as line:
        line.count_to(2)
    assert screen.getvalue() == ""


def test_long_work_within_a_verb_leaves_plain_lines():
    console, clock = open_console(Screen(is_terminal=False)), Clock()
    with ProgressLine("replies", 4, console=console, clock=clock, first_after=PLAIN, transient=True) as line:
        for done in range(1, 5):
            clock.now += 6
            line.count_to(done)
    assert console.file.getvalue().splitlines() == ["replies  2/4  12 s left", "replies  4/4"]


@pytest.mark.parametrize(
    ("is_terminal", "variables", "expected"),
    [
        (True, {}, True),
        (True, {"TERM": "xterm-256color", "NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm", "FORCE_COLOR": "1"}, False),
    ],
)
def test_where_a_line_is_redrawn(is_terminal, variables, expected, monkeypatch):
    assert can_redraw(Screen(is_terminal), variables) is expected
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    console = open_console(Screen(is_terminal))
    with ProgressLine("sft", 4, console=console) as line:
        line.report(["loss 1.000"])
    assert ("\x1b" in console.file.getvalue()) is expected


def test_the_bars_of_libraries_are_off_on_a_pipe_unless_the_user_has_set_them():
    for_pipe, for_terminal = {BARS[0]: "0"}, {}
    silence_bars(Screen(is_terminal=False), for_pipe)
    silence_bars(Screen(), for_terminal)
    assert for_pipe == {BARS[0]: "0", BARS[1]: "1", BARS[2]: "1"}
    assert for_terminal == {}


class Gone(Screen):
    """A stream whose reader goes away after some writes: a closed terminal, a broken pipe, a full disk."""

    def __init__(self, error: Exception, writes: int, is_terminal: bool):
        super().__init__(is_terminal)
        self.error, self.left = error, writes

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("writes", [0, 1, 3])
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "Input/output error"), ValueError("closed file")])
def test_work_goes_on_without_a_line_if_it_can_no_longer_be_written(is_terminal, writes, error):
    clock = Clock()
    with ProgressLine("sft", 9, console=open_console(Gone(error, writes, is_terminal)), clock=clock) as line:
        for done in range(1, 10):
            clock.now += 11
            line.count_to(done)
            line.say("evaluation: loss 1.0")
    assert line.done == 9 and line.lost
