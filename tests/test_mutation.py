"""benchmarks/mutation.py: what it mutates and what it leaves alone, and its verdicts on planted modules and tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
DRIVER = '''
import contextlib, io, json, os, sys, time
import mutation

def call(*words):
    sys.argv = ["mutation.py", *words]
    said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        mutation.main()
    out = said[0].getvalue()
    return {"out": out, "result": json.loads(out.splitlines()[-1]), "ran": said[1].getvalue().splitlines()}

def endings(root):
    """How forks end: with a result, late, dead."""
    from pathlib import Path
    from mutating.forks import Task, run_all

    work = {"done": lambda _: 1, "late": lambda _: time.sleep(60), "dead": lambda _: os.abort()}
    tasks = [Task(name, one, 0.5 if name == "late" else 60) for name, one in work.items()]
    return {task.name: result for task, result, _ in run_all(tasks, Path(root), 3)}

root, work = sys.argv[1:]
forked = endings(root)
words = ["--root", root, "--work", work, "--target", "planted.py=test_planted.py"]
first, again = call(*words), call(*words)
with open(f"{root}/test_planted.py", "a") as file:
    file.write("def test_at_the_limit():\\n    assert grown(3, 3) == 3\\n")
third, quick = call(*words), call("--quick")
with open(f"{root}/test_planted.py", "a") as file:
    file.write("import planted\\ndef test_of_the_file():\\n    planted.grown(1, 2)\\n")
    file.write("    assert type(planted.__loader__).__name__ != 'Loader'\\n")
try:
    call(*words)
    refused = ""
except SystemExit as ending:
    refused = str(ending)
print(json.dumps([first, again, third, quick, forked, refused]))
'''
PLANTED = """
def grown(value, limit):
    '''Doubled, 1 at a time.'''
    if value < limit:
        return 2 * value
    return value


def halved(value):
    return value / 2.0


def unused(value):
    return value - 1
"""
PLANTED_TESTS = """
from planted import grown, halved

def test_grown():
    assert grown(2, 3) == 4 and grown(5, 3) == 5

def test_halved():
    assert halved(3) == 1.5
"""


@pytest.fixture(scope="module")
def operators():
    sys.path.insert(0, str(FOLDER))
    from mutating import operators

    sys.path.remove(str(FOLDER))
    return operators


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The command on planted files; repeated; with a better test; its smoke run; how forks end; a test of no use."""
    root = tmp_path_factory.mktemp("planted")
    (root / "planted.py").write_text(PLANTED)
    (root / "test_planted.py").write_text(PLANTED_TESTS)
    command = [sys.executable, "-c", DRIVER, str(root), str(root / "work")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (root / "planted.py").read_text() == PLANTED
    return json.loads(done.stdout)


def changes(operators, source):
    """(before, after) of every mutant of a source."""
    return [operators.shown(one, source.encode()) for one in operators.mutants("m.py", source.encode())]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("y = a <= b", ["y = a < b"]),
        ("y = a not in b", ["y = a in b"]),
        ("y = (a) + b", ["y = (a) - b"]),
        ("y = a and b or c", ["y = a and b and c", "y = a or b or c"]),
        ("y = not (a or b)", ["y = (a or b)", "y = not (a and b)"]),
        ("y = x[-1]", ["y = x[1]", "y = x[0]", "y = x[-0]", "y = x[-2]"]),
        ("y = x[1:n]", ["y = x[:n]", "y = x[1:]", "y = x[0:n]", "y = x[2:n]"]),
        ("y = x.sum(-1)", ["y = x.mean(-1)", "y = x.sum(1)", "y = x.sum(0)", "y = x.sum(-0)", "y = x.sum(-2)"]),
        ("y = f(x, k=True)", ["y = f(x, k=False)"]),
        ("y = t.f(x, k=v, n=w)", ["y = t.f(x, n=w)", "y = t.f(x, k=v)"]),
        ("y = t.f(k=v, n=w)", ["y = t.f(, n=w)", "y = t.f(k=v)"][1:]),
        ("y = 2.5 * x", ["y = 2.5 / x", "y = 5.0 * x"]),
        ("x += a", ["pass", "x -= a"]),
        ("x.append(a)", ["pass"]),
        ("y = 'grün' if a else b", ["y = 'grün' if (not (a)) else b"]),
    ],
)
def test_operators(operators, statement, expected):
    found = changes(operators, f"def f():\n    {statement}\n")
    assert sorted(after for _, after in found) == sorted(expected)


def test_what_is_said_and_what_cannot_show_is_left_alone(operators):
    source = '''
"""Docs of 1."""
from typing import Literal

@decorated(True)
def f(x: Literal[1, 2] | None) -> Literal[3]:
    """More than 1."""
    logger.info("%d", x + 1)
    z: Literal[4] = x
    text = f"{x + 1:.2f}"
    if TYPE_CHECKING:
        z = 5
    if a(x):
        raise UserError("no", got=x + 1)
    zip(x, z, strict=True)
'''
    found = {after for _, after in changes(operators, source)}
    assert found == {"if (not (a(x))):", "pass"}


def test_each_mutant_changes_its_place_alone(operators):
    source = FOLDER.with_name("eval").joinpath("comparison", "intervals.py").read_bytes()
    found = operators.mutants("intervals.py", source)
    assert len(found) > 30
    for mutant in found:
        changed = mutant.apply(source)
        assert changed.startswith(source[: mutant.start]) and changed.endswith(source[mutant.end :])
        assert source[: mutant.start].count(b"\n") + 1 == mutant.line


def test_the_sample_is_one_a_line_by_seed_and_text(operators):
    source = b"def f(x, y):\n" + b"".join(b"    x = x + %d * y\n" % number for number in range(3, 43))
    drawn = list(operators.sampled("m.py", source, seed=0))
    assert [one.line for one in drawn] == list(range(2, 42))
    moved = b"import os\n\n\n" + source
    assert [one.new for one in operators.sampled("m.py", moved, seed=0)] == [one.new for one in drawn]
    assert [one.new for one in operators.sampled("m.py", source, seed=1)] != [one.new for one in drawn]
    part = [one.line for one in operators.sampled("m.py", source, seed=0, share=0.5)]
    assert 10 < len(part) < 30
    few = [one.line for one in operators.sampled("m.py", source, seed=0, most=7)]
    assert len(few) == 7 and few == sorted(few)


def test_verdicts_on_planted_mutants(calls):
    """Five lines: one that no test runs, three that are tested, and `<`, whose limit no test looks at."""
    first = calls[0]
    counts = first["result"]["figures"]["planted.py"]
    assert (counts["mutants"], counts["killed"], counts["survived"], counts["no coverage"]) == (5, 3, 1, 1)
    assert counts["score"] == pytest.approx(3 / 5) and not first["result"]["met"]
    assert "planted.py:14 unused: " in first["out"] and "if value <= limit:" in first["out"]


def test_what_is_known_does_not_run_again(calls):
    first, again, better, *_ = calls
    assert len(first["ran"]) == 5  # the tests without a mutant, and four with one
    assert again["ran"] == [] and again["out"] == first["out"]
    assert len(better["ran"]) == 5  # the test file has changed


def test_a_better_test_kills_what_survived(calls):
    better = calls[2]
    assert better["result"]["figures"]["planted.py"]["killed"] == 4 and "if value <= limit:" not in better["out"]


def test_forks_that_hang_or_die_are_told_apart(calls):
    assert calls[4] == {"done": 1, "late": "timeout", "dead": "crashed"}


def test_without_a_mutant_the_tests_must_pass_in_a_fork_too(calls):
    assert "planted.py unchanged" in calls[5] and "test_of_the_file" in calls[5]


def test_the_smoke_run(calls):
    result = calls[3]["result"]
    assert {"figures", "targets", "met", "machine"} <= set(result)
    assert result["figures"]["all"]["killed"] and result["figures"]["all"]["no coverage"]
