"""`align watch RUN_DIR`: a live view of a run in the terminal."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from alignment.report.live.run_state import RunState

EVERY = 1.0  # seconds between two readings
UNFINISHED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a run directory; it need not exist yet")
    parser.add_argument("--once", action="store_true", help="print the present state and exit (as without a terminal)")
    parser.epilog = (
        "Reads the run's files only; the run does not notice. Exit code: 1 if the run failed or died, otherwise 0."
    )


def main(args: argparse.Namespace) -> int:
    from rich.console import Console

    from alignment.report.live.run_state import read_state
    from alignment.report.live.screen import closing_lines, screen

    console = Console()
    if args.once or not console.is_terminal:
        plain = console if console.is_terminal else Console(width=160)
        state = read_state(args.run_dir)
        plain.print(screen(state))
    else:
        state = follow(args.run_dir, console)
    for line in closing_lines(state):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return exit_code(state)


def follow(run_dir: Path, console: "Console") -> "RunState":
    """Show a run until it is over or Ctrl-C, and return its last state."""
    from rich.live import Live

    from alignment.report.live.run_state import OVER, read_state
    from alignment.report.live.screen import screen

    state = read_state(run_dir)
    with Live(screen(state, waits=True), console=console, auto_refresh=False) as live:
        try:
            while state.status not in OVER:
                time.sleep(EVERY)
                state = read_state(run_dir)
                live.update(screen(state, waits=True), refresh=True)
        except KeyboardInterrupt:
            live.stop()
            console.print("stopped watching; the run is not affected")
    return state


def exit_code(state: "RunState") -> int:
    """1 for a run that failed, was interrupted or died."""
    from alignment.report.live.run_state import DIED, STOPPED

    return UNFINISHED if state.status in (STOPPED, DIED) else 0
