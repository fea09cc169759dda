"""A process that `sandbox.run_code` starts: sets its limits, then runs the code in its standard input.

The code is a solution, which then answers requests over a socket, or the tests of a solution, which send them. A script
that imports the standard library alone; do not import it.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

NEW_NAME_SPACES = 0x10000000 | 0x40000000 | 0x20000000  # user, network, processes
DIE_WITH_PARENT, DUMPABLE = 1, 4  # prctl's PR_SET_PDEATHSIG, PR_SET_DUMPABLE
OPEN_FILES, LARGEST_FILE = 64, 16 * 2**20
REFUSED = (
    *("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "os.kill", "os.killpg", "subprocess.Popen"),
    *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "ctypes.dlopen"),
)
CHANGES_FILES = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.link", "os.symlink"),
    "shutil.rmtree",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def leave_name_spaces() -> None:
    """Leave the network and the other processes behind if the kernel permits; otherwise do nothing.

    The program continues in a child process that ends with its parent, along with everything that the child starts.
    """
    if not sys.platform.startswith("linux"):
        return
    libc, user, group = ctypes.CDLL(None), os.getuid(), os.getgid()
    if libc.unshare(NEW_NAME_SPACES):
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)


def limit(seconds: float, megabytes: int) -> None:
    limits = {
        resource.RLIMIT_AS: megabytes * 2**20,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: LARGEST_FILE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def refuse_accidents(folder: str) -> None:
    """Add an audit hook that refuses to start processes, use the network or change files outside the folder."""

    def inside(path: str | bytes | os.PathLike) -> bool:
        place = os.path.realpath(os.fsdecode(path))
        return place == os.devnull or place.startswith(folder + os.sep)

    def hook(event: str, arguments: tuple) -> None:
        if event.startswith(REFUSED):
            raise PermissionError(f"{event} is refused here")
        paths = [one for one in arguments if isinstance(one, str | bytes | os.PathLike)]
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            paths = paths[:1]
        elif event not in CHANGES_FILES:
            return
        if not all(map(inside, paths)):
            raise PermissionError(f"{event} outside the folder is refused here")

    sys.addaudithook(hook)


def hide_memory() -> None:
    """Keep the user's other processes from reading this one's memory, if the kernel can."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(DUMPABLE, 0)


def load(name: str) -> Any:
    """A module of this file's folder. The packages around it are empty, so nothing else is imported."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    module = importlib.import_module(f"reward_models.rules.{name}")
    sys.path.pop(0)
    return module


def run_solution(rpc: Any, code: str, line: socket.socket) -> None:
    """Run code as an imported module, so that `if __name__ == "__main__"` is false, then answer the tests."""
    module = sys.modules["solution"] = ModuleType("solution")
    exec(compile(code, "solution", "exec", dont_inherit=True), module.__dict__)
    rpc.serve_solution(line, module.__dict__)


def main() -> None:
    leave_name_spaces()
    if sys.argv[1:] == ["tests"]:
        hide_memory()
    job = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDWR)
    answer = os.dup(1)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # the code's output is dropped
    limit(job["seconds"], job["megabytes"])
    line = socket.socket(fileno=job["socket"])
    sandbox_module = load("sandbox_tests" if "tests" in job else "sandbox_rpc")
    refuse_accidents(os.path.realpath(os.getcwd()))
    if "tests" not in job:
        os.close(answer)
        run_solution(sandbox_module, job["code"], line)
    else:
        sandbox_module.run_tests(line, job["tests"])
        os.write(answer, job["token"].encode())
    os._exit(0)


if __name__ == "__main__":
    main()
