"""Tests in forks of a process that has the libraries imported: with a mutant in place of its file, or traced by line.

A fork imports the project's own modules and the tests anew; the mutated source exists in its memory alone. What tests
run in other processes is neither mutated nor counted as covered.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

import pytest

MEMORY = 16 * 2**30  # of a fork's address space: a mutant may ask for anything
RESULT = "result.json"


@dataclass
class Task:
    """What one fork does: `work(folder)`, whose result it writes into the folder; killed after `seconds`."""

    name: str
    work: Callable[[Path], object]
    seconds: float
    pid: int = 0
    started: float = 0.0
    folder: Path = field(default_factory=Path)


def run_all(tasks: Iterable[Task], root: Path, jobs: int) -> Iterator[tuple[Task, object, float]]:
    """Do tasks in forks, `jobs` at a time; each with its result ("timeout", "crashed" or what it found) and seconds."""
    waiting, running = iter(tasks), []
    try:
        while True:
            while len(running) < jobs and (task := next(waiting, None)):
                start(task, root)
                running.append(task)
            if not running:
                return
            time.sleep(0.02)
            for task in list(running):
                late = time.monotonic() - task.started > task.seconds
                if late:
                    end_group(task)
                if late or os.waitpid(task.pid, os.WNOHANG)[0]:
                    if late:
                        os.waitpid(task.pid, 0)
                    running.remove(task)
                    found = "timeout" if late else result_of(task)
                    rmtree(task.folder, ignore_errors=True)
                    yield task, found, time.monotonic() - task.started
    finally:
        for task in running:
            end_group(task)
            os.waitpid(task.pid, 0)
            rmtree(task.folder, ignore_errors=True)


def end_group(task: Task) -> None:
    os.killpg(task.pid, signal.SIGKILL)


def result_of(task: Task) -> object:
    path = task.folder / RESULT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else "crashed"


def start(task: Task, root: Path) -> None:
    task.folder, task.started = Path(tempfile.mkdtemp(prefix="mutant-")), time.monotonic()
    sys.stdout.flush()
    task.pid = os.fork()
    if task.pid:
        return
    code = 1
    try:
        os.setsid()
        settle(task.folder, root)
        result = task.work(task.folder)
        partial = task.folder / "partial"
        partial.write_text(json.dumps(result), encoding="utf-8")
        partial.rename(task.folder / RESULT)
        code = 0
    finally:
        os._exit(code)


def settle(folder: Path, root: Path) -> None:
    """In the fork: a working directory, temporary files, caches and output of its own, and a limit on memory."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(root)
    os.environ |= {"TMPDIR": str(folder), "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")}
    tempfile.tempdir = None
    if "datasets" in sys.modules:  # the cache that tests/conftest.py would have set before its import
        sys.modules["datasets"].config.HF_DATASETS_CACHE = folder / "datasets"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


class Mutated(importlib.abc.MetaPathFinder):
    """Gives one module the source that it is to have; all others come from their files."""

    def __init__(self, root: Path, path: str, source: bytes):
        self.file, self.source = root / path, source
        self.name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        loader = Loader(name, str(self.file))
        loader.source = self.source
        return importlib.util.spec_from_file_location(name, self.file, loader=loader)


class Loader(importlib.machinery.SourceFileLoader):
    source: bytes

    def get_code(self, fullname):
        return compile(self.source, self.path, "exec", dont_inherit=True)


def run_tests(tests: list[str], plugin: object, *more: str) -> int:
    options = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", *more]
    if importlib.util.find_spec("hypothesis"):
        options.append("--hypothesis-seed=0")
    return int(pytest.main([*options, *tests], plugins=[plugin]))


class FirstFailure:
    """Pytest plugin: which test failed first."""

    test: str | None = None

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and self.test is None:
            self.test = report.nodeid


def try_mutant(root: Path, path: str, source: bytes, tests: list[str]) -> dict:
    """Run tests until one fails, with a file's source replaced: {"killer": its name, "import", or None}."""
    sys.meta_path.insert(0, Mutated(root, path, source))
    first = FirstFailure()
    failed = run_tests(tests, first, "-x") != 0
    return {"killer": (first.test or "import") if failed else None}


class Lines:
    """Pytest plugin: the lines of some files that each test executes.

    Lines of a fixture that several tests share count for each of them. Those executed while modules are imported come
    under the name "".
    """

    def __init__(self, files: Iterable[str]):
        self.files = frozenset(files)
        self.current: dict[str, set[int]] = defaultdict(set)
        self.lines: dict[str, dict[str, set[int]]] = {"": self.current}
        self.shared: dict[str, dict[str, set[int]]] = {}
        self.uses: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()

    def trace(self, frame, event, argument):
        if frame.f_code.co_filename not in self.files:
            return None
        self.current[frame.f_code.co_filename].add(frame.f_lineno)
        return self.trace

    def begin(self) -> None:
        threading.settrace(self.trace)
        sys.settrace(self.trace)

    def record(self, into: dict[str, set[int]]) -> dict[str, set[int]]:
        """From here on into this record; what it was before is returned."""
        before, self.current = self.current, into
        return before

    def pytest_runtest_logstart(self, nodeid) -> None:
        self.record(self.lines.setdefault(nodeid, defaultdict(set)))

    def pytest_runtest_setup(self, item) -> None:
        self.uses[item.nodeid] = list(item.fixturenames)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        before = self.record(self.shared.setdefault(fixturedef.argname, defaultdict(set)))
        try:
            return (yield)
        finally:
            self.record(before)

    def pytest_runtest_logreport(self, report) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)

    def found(self) -> dict[str, dict]:
        """Test -> {seconds, lines: {file: sorted lines}}, of the tests that passed."""
        for test, fixtures in self.uses.items():
            for lines in (self.shared[name] for name in fixtures if name in self.shared):
                for file, numbers in lines.items():
                    self.lines[test][file] |= numbers
        return {
            test: {
                "seconds": self.seconds[test],
                "lines": {file: sorted(numbers) for file, numbers in lines.items() if numbers},
            }
            for test, lines in self.lines.items()
            if test not in self.failed
        }


def cover(root: Path, files: list[str], test_file: str) -> dict:
    """Run a test file, traced: {"tests": see `Lines.found`, "failed": names}."""
    plugin = Lines(str(root / file) for file in files)
    plugin.begin()
    run_tests([test_file], plugin)
    sys.settrace(None)
    prefix = f"{root}/"
    found = {
        test: one | {"lines": {file.removeprefix(prefix): lines for file, lines in one["lines"].items()}}
        for test, one in plugin.found().items()
    }
    return {"tests": found, "failed": sorted(plugin.failed)}
