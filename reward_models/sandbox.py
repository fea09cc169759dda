"""Python code in a process of its own, with limits. They guard against accidents, not against attackers.

The process has no environment, an empty folder of its own to work in, and limits on processor time, wall time, memory,
size and number of files. An audit hook refuses to start processes, to use the network and to change files outside the
folder. Where the kernel permits (Linux, user name spaces) it has neither network nor a view of other processes, and all
that it started ends with it. Code that sets out to can get around the hook, and can read what the user can read.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

CHILD = Path(__file__).with_name("sandbox_child.py")


def run_code(code: str, tests: str, seconds: float = 5.0, megabytes: int = 512) -> str:
    """Run code, and the tests after it in the same name space.

    Args:
        seconds: of wall time, and of processor time.
        megabytes: of address space.

    Returns:
        passed: both ran to their end without an exception; failed; or timeout. Code that leaves early (sys.exit) has
        not passed.
    """
    token = secrets.token_hex(16)  # said by the process once the tests have run to their end
    job = {"code": code, "tests": tests, "seconds": seconds, "megabytes": megabytes, "token": token}
    with TemporaryDirectory(prefix="alignment-sandbox-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(json.dumps(job).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            end_group(process)
    return "passed" if said.decode(errors="replace").strip() == token else "failed"


def end_group(process: subprocess.Popen) -> None:
    """Kill a process with all of its group, and wait for it."""
    with suppress(ProcessLookupError):  # none of them is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
