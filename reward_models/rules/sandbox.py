"""Python code and its tests, in two processes with limits.

The process that runs the code never has the tests: they run in the other one, call the code through a socket, and judge
plain values that come back (sandbox_rpc.py). So code can neither read what is expected of it nor end, patch or outvote
its tests.

Each process has no environment, an empty folder to work in, and limits on processor time, wall time, memory, size and
number of files. An audit hook refuses to start processes, to use the network and to change files outside the folder.
Where the kernel permits (Linux, user name spaces) it has no network, cannot touch other processes, and all that it
started ends with it. These limits guard against accidents, not against attackers: code that sets out to can get around
the hook, and can read what the user can read, a file that holds the answers included.
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

CHILD = Path(__file__).with_name("sandbox_child.py")


def run_code(code: str, tests: str, seconds: float = 5.0, megabytes: int = 512) -> str:
    """Run code, then tests that call it.

    Args:
        tests: Python code that uses the names of `code`; functions named test... without arguments are called.
        seconds: of wall time, and of processor time.
        megabytes: of address space, of each process.

    Returns:
        passed: both ran to their end without an exception; failed; or timeout. Code that leaves early (sys.exit) has
        not passed.
    """
    token = secrets.token_hex(16)  # said by the process once the tests have run to their end
    ours, theirs = socket.socketpair()
    limits = {"seconds": seconds, "megabytes": megabytes}
    with TemporaryDirectory(prefix="alignment-sandbox-", ignore_cleanup_errors=True) as folder, ours, theirs:
        solution = tests_of_it = None
        try:
            with TemporaryFile() as job:
                job.write(_job(ours.fileno(), code=code, **limits))
                job.seek(0)
                solution = _start("solution", folder, ours, stdin=job, stdout=subprocess.DEVNULL)
            tests_of_it = _start("tests", folder, theirs, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            ours.close()
            job = _job(theirs.fileno(), tests=tests, token=token, **limits)
            theirs.close()
            said, _ = tests_of_it.communicate(job, timeout=seconds)
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            for process in filter(None, (solution, tests_of_it)):
                end_group(process)
    return "passed" if said.decode(errors="replace").strip() == token else "failed"


def _job(line: int, **job: object) -> bytes:
    return json.dumps(job | {"socket": line}).encode()


def _start(role: str, folder: str, line: socket.socket, **streams: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-I", str(CHILD), role],
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
        pass_fds=[line.fileno()],
        **streams,
    )


def end_group(process: subprocess.Popen) -> None:
    """Kill a process with all of its group, and wait for it."""
    with suppress(ProcessLookupError):  # none of them is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in filter(None, (process.stdin, process.stdout)):
        stream.close()
