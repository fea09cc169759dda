"""Code in the sandbox: its outcomes, its limits, and what it is refused."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from alignment.errors import UserError
from reward_models.functions import load_reward
from reward_models.rule_tests import read_tests
from reward_models.rules import sandbox
from reward_models.rules.sandbox import run_code

LONG = 20.0  # seconds that nothing here should need


def processes(marker: str) -> list[str]:
    """Processes whose command line contains a text."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes().decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if marker in line:
            found.append(line)
    return found


SAYS_IT_PASSED = """
import os
for fd in range(1, 20):
    try:
        os.write(fd, b"passed")
    except OSError:
        pass
os._exit(0)
"""


@pytest.mark.parametrize(
    ("code", "tests", "outcome"),
    [
        ("def f(x): return x + 1", "assert f(1) == 2", "passed"),
        ("def f(x): return x", "assert f(1) == 2", "failed"),
        ("x = (", "", "failed"),
        ("import sys; sys.exit(0)", "assert False", "failed"),
        ("import os; os._exit(0)", "assert False", "failed"),
        ("print('passed' * 100_000)", "assert True", "passed"),
        (SAYS_IT_PASSED, "assert False", "failed"),
        ("from importlib.util import find_spec", "assert find_spec('sandbox_child') is None", "passed"),
        ("open('here', 'w').write('1')", "assert open('here').read() == '1'", "passed"),
        ("import os", "assert 'SANDBOX_SECRET' not in os.environ and len(os.listdir()) == 0", "passed"),
        ("import tempfile", "with tempfile.TemporaryDirectory() as f: open(f + '/a', 'w').close()", "passed"),
    ],
)
def test_code_passes_if_its_tests_run_to_their_end(code, tests, outcome, monkeypatch):
    monkeypatch.setenv("SANDBOX_SECRET", "1")
    assert run_code(code, tests, LONG) == outcome


RIGHT, WRONG = "def f(x): return x + 1", "def f(x): return x"
READ = {
    "fences": "```python\nassert f(1) == 2\n```",
    "fences and prose": "These must hold:\n\n```\nassert f(1) == 2\n```\n",
    "indented": "    assert f(1) == 2\n    assert f(2) == 3\n",
    "a byte order mark": "\ufeffassert f(1) == 2",
    "other line ends": "assert f(1) == 2\r\nassert f(2) == 3\r\n",
    "a list with null": ["assert f(1) == 2", None],
    "a list as JSON": '["assert f(1) == 2"]',
    "from solution": "from solution import f\nassert f(1) == 2",
    "from solution as": "from solution import f as g\nassert g(1) == 2",
    "all from solution": "from solution import *\nassert f(1) == 2",
    "solution": "import solution\nassert solution.f(1) == 2",
    "solution as": "import math, solution as s\nassert s.f(1) == 2",
    "a test after a call": "cases = list(range(3))\ndef test_f():\n    for x in cases:\n        assert f(x) == x + 1",
    "a test with a default": "def test_f(one=1):\n    assert f(one) == 2",
    "raises": "if f(1) != 2:\n    raise ValueError",
}
JUDGES_NOTHING = {
    "a comparison": ("f(1) == 3", "assert nothing"),
    "comparisons": (["f(1) == 3", "f(2) == 4"], "assert nothing"),
    "a call": ("print(f(1))", "assert nothing"),
    "an empty test": ("def test_f():\n    f(1)", "assert nothing"),
    "a session": (">>> f(1)\n2", "not >>> f(1)"),
    "prose": ("f of 1 must be 2", "not Python"),
    "parametrized": ("def test_f(x, y):\n    assert f(x) == y", "test_f takes arguments"),
    "an unknown module": ("from your_module import f\nassert f(1) == 2", "got: your_module"),
    "cases that nobody runs": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 2)",
        "run nothing",
    ),
    "numbers": ([1, 2], "does not hold Python code"),
    "objects": ([{"input": "1", "output": "2"}], "does not hold Python code"),
    "an object": ({"assert": 1}, "does not hold Python code"),
    "a list of lists": ([["assert f(1) == 2"]], "does not hold Python code"),
    "a number": (1.5, "does not hold Python code"),
}


@pytest.fixture(scope="module")
def code_passes():
    return load_reward(f"rules:code_passes?allow_execution=true&seconds={LONG}")


@pytest.mark.parametrize("case", READ)
def test_tests_as_data_sets_hold_them(case):
    tests = read_tests(READ[case], "tests")
    assert run_code(RIGHT, tests, LONG) == "passed"
    if case in ("fences", "solution as", "a test after a call"):
        assert run_code(WRONG, tests, LONG) == "failed"


def test_rows_without_tests_have_no_score(code_passes):
    none = [None, "", [], [None], float("nan"), "\ufeff", " \n"]
    assert code_passes(prompts=["p"] * len(none), completions=[WRONG] * len(none), tests=none) == [None] * len(none)


@pytest.mark.parametrize("case", JUDGES_NOTHING)
def test_tests_that_could_not_judge_are_refused(case, code_passes):
    tests, said = JUDGES_NOTHING[case]
    with pytest.raises(UserError) as caught:
        code_passes(prompts=["p"], completions=[RIGHT], tests=[tests])
    text = " ".join(str(caught.value).split())
    assert said in text and "failed" not in text.partition("got")[0]


def refused(call: str) -> str:
    return f"""
try:
    {call}
except (PermissionError, OSError, MemoryError) as error:
    found = error
"""


@pytest.mark.parametrize(
    "call",
    [
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('example.com', 80)",
        "import os; os.kill(os.getppid(), 9)",
        "import shutil; shutil.rmtree('/nowhere/at/all')",
    ],
)
def test_processes_the_network_and_other_folders_are_refused(call):
    assert run_code(refused(call), "assert 'is refused here' in str(found)", LONG) == "passed"


def test_files_outside_are_neither_written_nor_removed(tmp_path):
    (tmp_path / "kept").write_text("1")
    beside = "import os; open(os.getcwd() + '-beside', 'w')"
    for call in (f"open('{tmp_path}/new', 'w')", f"import os; os.remove('{tmp_path}/kept')", beside):
        assert run_code(refused(call), "assert 'refused' in str(found)", LONG) == "passed"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_every_way_to_change_files_outside_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("1")
    code = f"""
import os, shutil
here, refused = {str(tmp_path)!r}, []
calls = [
    lambda: os.open(here + "/new", os.O_CREAT),
    lambda: os.rename(here + "/a", here + "/c"),
    lambda: os.rename(here + "/a", "mine"),
    lambda: os.mkdir(here + "/folder"),
    lambda: os.rmdir(here),
    lambda: os.truncate(here + "/a", 0),
    lambda: os.chmod(here + "/a", 0),
    lambda: os.link(here + "/a", "mine"),
    lambda: os.symlink(here, "mine"),
    lambda: shutil.rmtree(here),
]
for call in calls:
    try:
        call()
    except PermissionError as error:
        refused.append("is refused here" in str(error))
"""
    assert run_code(code, "assert sum(refused) == len(calls)", LONG) == "passed"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "1", "b": "1"}


def test_an_endless_loop_times_out():
    started = time.monotonic()
    assert run_code("while True: pass", "", seconds=0.5) == "timeout"
    assert time.monotonic() - started < 10


def test_memory_is_limited():
    big = "x = bytearray({} * 2**20)"
    assert run_code(refused(big.format(400)), "assert isinstance(found, MemoryError)", LONG, 200) == "passed"
    assert run_code(big.format(400) + "; size = len(x)", "assert size == 400 * 2**20", LONG, 1000) == "passed"


def test_files_and_processor_time_are_limited():
    large = "f = open('a', 'wb', buffering=0)\nfor _ in range(40): f.write(b'x' * 2**20)"
    assert run_code(large, "", LONG) == "failed"
    assert run_code("many = [open(str(number), 'w') for number in range(100)]", "", LONG) == "failed"
    time_limit = "assert resource.getrlimit(resource.RLIMIT_CPU) == (21, 21)"  # one second more than it may take
    assert run_code("import resource", time_limit, LONG) == "passed"


def test_a_sandboxed_process_has_its_own_network_name_space():
    def shares(kind: str) -> bool:
        place = f"/proc/self/ns/{kind}"
        return run_code("import os", f"assert os.readlink({place!r}) == {os.readlink(place)!r}", LONG) == "passed"

    if not sys.platform.startswith("linux") or shares("user"):
        pytest.skip("no user name spaces here")
    assert not shares("net") and not shares("pid")


SPAWN = """
import _posixsubprocess as raw, os, sys, time
def spawn(*command):  # past the audit hook, as an attacker would
    read, write = os.pipe()
    return raw.fork_exec([os.fsencode(part) for part in command], [os.fsencode(command[0])], True, (write,), None, None,
        -1, -1, -1, -1, -1, -1, read, write, False, {session}, -1, None, None, None, -1, None, False)
spawn(sys.executable, "-c", "import time; time.sleep(600)", "{marker}")
{then}
"""


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("then", ["time.sleep(600)", ""])
def test_processes_that_the_code_started_end_with_it(session, then):
    if session and not Path("/proc/self/ns/pid_for_children").exists():
        pytest.skip("no name spaces here: what leaves its session survives")
    marker = f"left-over-{os.getpid()}-{session}-{bool(then)}"
    outcome = run_code(SPAWN.format(session=session, marker=marker, then=then), "", seconds=1.0 if then else LONG)
    assert outcome == ("timeout" if then else "passed")
    deadline = time.monotonic() + 5
    while processes(marker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes(marker)


def test_the_sandbox_ends_with_its_parent(tmp_path):
    marker = f"left-over-{os.getpid()}-waits"
    code = "import time; open('ready', 'w').close(); time.sleep(600)"
    line, _ = pair = socket.socketpair()
    job = {"code": code, "seconds": LONG, "megabytes": 512, "socket": line.fileno()}
    command = [sys.executable, "-I", str(sandbox.CHILD), marker]
    fds = [line.fileno()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path, start_new_session=True, pass_fds=fds)
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    deadline = time.monotonic() + LONG
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    while (left := processes(marker)) and time.monotonic() < deadline:
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for end in pair:
        end.close()
    assert not left


def test_without_name_spaces_the_group_is_killed(tmp_path, monkeypatch):
    source = sandbox.CHILD.read_text()
    assert source.count("    leave_name_spaces()\n") == 1
    folder = tmp_path / "reward_models" / "rules"
    shutil.copytree(sandbox.CHILD.parent, folder)
    (folder / "child.py").write_text(source.replace("    leave_name_spaces()\n", ""))
    monkeypatch.setattr(sandbox, "CHILD", folder / "child.py")
    marker = f"left-over-{os.getpid()}-group"
    assert run_code(SPAWN.format(session=False, marker=marker, then=""), "", LONG) == "passed"
    deadline = time.monotonic() + 5
    while processes(marker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes(marker)


@pytest.mark.parametrize("module", ["sandbox_rpc", "sandbox_tests"])
def test_a_sandboxed_process_imports_the_standard_library_alone(module):
    """A process starts for each reply, and its memory is limited."""
    child = sandbox.CHILD
    program = f"import runpy, sys; load = runpy.run_path({str(child)!r})['load']; load({module!r}); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = {name for name in said.split() if name.split(".")[0] not in sys.stdlib_module_names}
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True
    )
    own = {name for name in loaded - set(bare.stdout.split()) if name != "__mp_main__"}
    ours = {"sandbox_remote", "sandbox_rpc"} | {module}
    assert own == {"reward_models", "reward_models.rules", *(f"reward_models.rules.{name}" for name in ours)}
