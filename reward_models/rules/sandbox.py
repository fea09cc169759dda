"""Python code and its tests, in two processes with limits.

The process that runs the code never has the tests. They run in the other process, call the code through a socket and
judge the plain values that come back (sandbox_rpc.py). The code therefore can neither read the expected values nor end,
patch or outvote its tests.

Each process has no environment, an empty working folder, and limits on processor time, wall time, memory, and the size
and number of files. An audit hook refuses to start processes, to use the network and to change files outside the
folder. If the kernel permits (Linux, user name spaces), the process has no network, cannot touch other processes, and
everything that it started ends with it. These limits guard against accidents, not against attackers: code written for
the purpose can get around the hook, and can read what the user can read, including a file that holds the answers.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

CHILD = Path(__file__).with_name("sandbox_child.py")


def run_code(code: str, tests: str, seconds: float = 5.0, megabytes: int = 512) -> str:
    """Run code, then tests that call it.

    Args:
        tests: Python code that uses the names of `code`; functions named test... without arguments are called.
        seconds: limit of wall time, and of processor time per process.
        megabytes: limit of address space per process.

    Returns:
        "passed" if both ran to their end without an exception, otherwise "failed" or "timeout". Code that exits early
        (sys.exit) has failed.
    """
    token = secrets.token_hex(16)  # printed by the process once the tests have run to their end
    solution_end, tests_end = socket.socketpair()
    limits = {"seconds": seconds, "megabytes": megabytes}
    with TemporaryDirectory(prefix="alignment-sandbox-", ignore_cleanup_errors=True) as folder, solution_end, tests_end:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            with TemporaryFile() as file:
                file.write(_job(solution_end.fileno(), code=code, **limits))
                file.seek(0)
                processes.append(_start("solution", folder, solution_end, stdin=file, stdout=subprocess.DEVNULL))
            processes.append(_start("tests", folder, tests_end, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            solution_end.close()
            job = _job(tests_end.fileno(), tests=tests, token=token, **limits)
            tests_end.close()
            said, _ = processes[-1].communicate(job, timeout=seconds)
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            for process in processes:
                end_group(process)
    return "passed" if said.decode(errors="replace").strip() == token else "failed"


def _job(line: int, **job: object) -> bytes:
    return json.dumps(job | {"socket": line}).encode()


def _start(role: str, folder: str, line: socket.socket, stdin: int | IO[bytes], stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", str(CHILD), role],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
        pass_fds=[line.fileno()],
    )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its whole group, and wait for it."""
    with suppress(ProcessLookupError):  # no process of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in filter(None, (process.stdin, process.stdout)):
        stream.close()
