"""The console script as a user runs it, in a process of its own each time, but for the seconds that imports take.

A command's process is forked from one that has imported what commands import (and run nothing), at half to nine tenths
of the cost. What it means to start from nothing is tested in tests/cli.
"""

import atexit
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).parents[2]
SERVER = Path(__file__).with_name("align_server.py")
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}


def align(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run the console script where `recipes` is beside it, as a user would."""
    command = [sys.executable, str(SERVER), str(server()), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=os.environ | ENVIRONMENT, capture_output=True, text=True)


def write_launcher(folder: Path) -> None:
    """Put an executable `align` into a folder, for the PATH of a shell."""
    launcher = folder / "align"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SERVER}" "{server()}" "$@"\n')
    launcher.chmod(0o755)


@functools.cache
def server() -> Path:
    """The socket of this test process's server, which ends with it."""
    folder = TemporaryDirectory(prefix="align-")
    path = Path(folder.name) / "socket"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    process = subprocess.Popen(
        [sys.executable, str(SERVER), f"--serve={listening.fileno()}"],
        stdin=subprocess.PIPE,
        pass_fds=[listening.fileno()],
        env=os.environ | ENVIRONMENT,
        cwd=REPOSITORY,
    )
    listening.close()

    def stop() -> None:
        process.stdin.close()  # by which the server knows
        process.wait()
        folder.cleanup()

    atexit.register(stop)
    return path
