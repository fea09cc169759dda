"""How tests reach a solution in another process: what works from afar, and which tricks do not."""

import pytest

from reward_models.sandbox import run_code

LONG = 20.0  # seconds that nothing here should need

VALUES = """
import collections, datetime, decimal, enum, fractions, math, typing
Point = collections.namedtuple("Point", "x y")
class Level(int): pass
def same(x): return x
def several():
    return [1, -2.5, True, None, "\\ud800é", b"ab", (1, (2,)), {3}, frozenset({4}), {(1, 2): [3]}, 2j, 10**40, range(3),
            decimal.Decimal("1.10"), fractions.Fraction(1, 3), datetime.date(2020, 1, 2), bytearray(b"x"),
            datetime.timedelta(days=1), collections.deque([1]), collections.Counter("aab"), Point(1, 2), Level(3), int]
def nothing(): pass
def not_a_number(): return float("nan")
"""
VALUES_TESTS = """
import collections, datetime, decimal, fractions
found = several()
assert found == [1, -2.5, True, None, "\\ud800é", b"ab", (1, (2,)), {3}, frozenset({4}), {(1, 2): [3]}, 2j, 10**40,
    range(3), decimal.Decimal("1.10"), fractions.Fraction(1, 3), datetime.date(2020, 1, 2), bytearray(b"x"),
    datetime.timedelta(days=1), collections.deque([1]), {"a": 2, "b": 1}, (1, 2), 3, int]
assert [type(one) for one in found[:4]] == [int, float, bool, type(None)]
assert same(found[:-1]) == found[:-1] and nothing() is None and not_a_number() != not_a_number()
assert same(x=float("inf")) == float("inf") and same(same)(3) == 3 and same.__name__ == "same"
assert math.isclose(same(0.1) + 0.2, 0.3)  # a module of the solution's imports
"""
CLASSES = """
from __future__ import annotations
import dataclasses
class Solution:
    limit = 3
    def double(self, x): return 2 * x
    def numbers(self):
        yield from range(self.limit)
@dataclasses.dataclass
class Node:
    value: int
    next: Node | None = None
    def __add__(self, other): return Node(self.value + other.value)
    def __len__(self): return 7
    def __getitem__(self, at): return at + 1
class Odd(ValueError): pass
def last(node):
    while node.next: node = node.next
    return node.value
def fails(x): raise Odd("odd", x)
"""
CLASSES_TESTS = """
assert Solution().double(2) == 4 and Solution.limit == 3 and isinstance(Solution(), Solution)
assert list(Solution().numbers()) == [0, 1, 2] and 2 in Solution().numbers() and sum(Solution().numbers()) == 3
node = Node(1, Node(2))
assert last(node) == 2 and node.next.value == 2 and node.next is node.next and Node(1) == Node(1) != Node(2)
node.next = None
assert last(node) == 1 and (Node(1) + Node(2)).value == 3 and len(node) == 7 and node[1] == 2
assert str(Node(1)) == "Node(value=1, next=None)" and not isinstance(node, Solution)
try:
    fails(3)
except ValueError as error:
    assert error.args == ("odd", "3")
else:
    raise AssertionError("no exception")
"""


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (VALUES, VALUES_TESTS),
        (CLASSES, CLASSES_TESTS),
        ("def f(x): return x + 1\nif __name__ == '__main__':\n    print(f(int(input())))", "assert f(1) == 2"),
        ("def f(x): return x + 1", "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)"),
        ("def f(x): return x + 1", "def test_f():\n    assert f(1) == 2"),
        ("def f(x):\n    x.sort()", "numbers = [2, 1]\nf(numbers)\nassert numbers == [1, 2]"),
        ("def f(x):\n    x[0].clear()\n    return x", "rows = [[1], [2]]\nf(rows)\nassert rows == [[], [2]]"),
        (
            "def f(g, x): return [g(g(one)) for one in x]",
            "assert f(lambda x: x * 3, [1]) == [9] and f(str, [1]) == ['1']",
        ),
        ("def f(): return lambda x: lambda y: x + y", "assert f()(1)(2) == 3"),
        ("count = 0\ndef f():\n    global count\n    count += 1", "f()\nf()\nassert count == 2"),
        ("def sum(a, b): return a + b", "assert sum(1, 2) == 3"),
        (
            "def f(x):\n    if x < 0: raise ValueError('negative')",
            "try: f(-1)\nexcept ValueError as e: assert str(e) == 'negative'",
        ),
        ("def f(x): return 1 / x", "try:\n    f(0)\n    assert False\nexcept ZeroDivisionError: pass"),
        ("def f(n): return list(range(n))", "assert len(f(200_000)) == 200_000"),
    ],
)
def test_right_solutions_pass(code, tests):
    assert run_code(code, tests, LONG) == "passed"


EQUALS_ALL = """
class All:
    def __eq__(self, other): return True
    __ne__ = __hash__ = None
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __abs__ = __sub__
    def __instancecheck__(self, other): return True
    def __float__(self): return 0.5
    def __bool__(self): return True
"""
READS_TESTS = """
import gc, inspect, json, os, sys, pathlib
def f(x):
    seen = [str(sys.argv), str(dict(os.environ)), str(sys.modules["__main__"].__dict__), str(sys._getframe().f_globals)]
    frame = sys._getframe()
    while frame:
        seen += [str(frame.f_locals), str(frame.f_globals), str(frame.f_code.co_consts)]
        frame = frame.f_back
    seen += [str(one) for one in gc.get_objects() if type(one) in (dict, list, tuple, str)]
    for place in [*pathlib.Path("/proc").glob("[0-9]*/cmdline"), *pathlib.Path("/proc").glob("[0-9]*/environ"),
                  *pathlib.Path("/proc").glob("[0-9]*/fd/0"), *pathlib.Path(".").glob("*")]:
        try:
            seen.append(os.readlink(place) if place.name == "0" else str(place.read_bytes()[:100000]))
        except OSError:
            pass
    return "".join(["87", "654321"]) in " ".join(seen)
"""
MEMORY_OF_OTHERS = """
import os
def f():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{pid}/cmdline").read()
            if "sandbox_child" in line and "tests" in line and int(pid) != os.getpid():
                open(f"/proc/{pid}/mem", "rb").read(0)
                found.append(pid)
        except OSError:
            pass
    return len(found)
"""
FORGES = """
import os, sys
def f(x):
    for fd in range(3, 20):
        try: os.write(fd, {message!r})
        except OSError: pass
    return 3
"""
EVALUATES = """
import sandbox_rpc, sys
def f(g):
    frame = sys._getframe()
    while "self" not in frame.f_locals: frame = frame.f_back
    peer = frame.f_locals["self"]
    what = {{"tuple": [{{"builtin": "eval"}}, "__import__('os')._exit(0)"]}}
    peer.send("ask", {request!r}, what, {{"dict": []}})
    peer.receive()
    return 1
"""


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (EQUALS_ALL + "def f(x): return All()", "assert f(1) == 2"),
        (EQUALS_ALL + "def f(x): return All()", "assert 2 == f(1)"),
        (EQUALS_ALL + "def f(x): return [All()]", "assert f(1) == [2]"),
        (EQUALS_ALL + "def f(x): return All()", "assert abs(f(1) - 2) < 1e-6"),
        (EQUALS_ALL + "def f(x): return All()", "assert f(1) < 5"),
        (EQUALS_ALL + "def f(x): return All()", "assert f(1) in (2, 3)"),
        (EQUALS_ALL + "def f(x): return All()", "assert 2 in f(1)"),
        (EQUALS_ALL + "def f(x): return All()", "assert isinstance(f(1), int)"),
        (EQUALS_ALL + "class F(All, float): pass\ndef f(x): return F(1.0)", "assert f(1) == 2"),
        (EQUALS_ALL + "class F(All, list): pass\ndef f(x): return F([1])", "assert f(1) == [2]"),
        ("def f(x): return 3\ndef set(x): return 0\nsorted = len = abs = set", "assert set(f(1)) == set([2])"),
        ("def set(x): return 0", "assert set(f(1)) == set([2])"),
        ("import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 3", "assert abs(f(1) - 2) < 1e-6"),
        ("import math\nmath.isclose = lambda *a: True\ndef f(x): return 3", "assert math.isclose(f(1), 2)"),
        ("import unittest.mock as math\ndef f(x): return 3", "assert math.isclose(f(1), 2)"),
        ("import json, sys\nimport os\ndef f(x): os._exit(0)", "assert f(1) == 2"),
        ("import os\ndef f(x): os._exit(0)", "try:\n    f(1)\nexcept BaseException: pass"),
        ("import sys\ndef f(x): sys.exit(0)", "assert f(1) == 2"),
        ("def f(x): raise SystemExit(0)", "f(1)"),
        ("import sys\nsys.exit(0)", "assert f(1) == 2"),
        ("def f(x): raise AssertionError", "assert f(1) == 2"),
        (
            "import threading, os\nthreading.Timer(0.05, os._exit, [0]).start()\ndef f(x):\n    while 1: pass",
            "assert f(1) == 2",
        ),
        (FORGES.format(message=b"passed\n"), "assert f(1) == 2"),
        (FORGES.format(message=b'["answer", 3, []]\n'), "assert f(1) == 2"),
        (FORGES.format(message=b"[" * 100_000 + b"\n"), "assert f(1) == 2"),
        (FORGES.format(message=b'["answer", {"builtin": "eval"}, []]\n'), "assert f(1) == 2"),
        (EVALUATES.format(request="call"), "assert f(lambda x: x) == 2"),
        (EVALUATES.format(request="getattr"), "assert f(lambda x: x) == 2"),
        ("def f(x):\n    x.clear()\n    return 3", "assert f([1]) == 2"),
        ("def f(x):\n    a = []\n    a.append(a)\n    return a", "assert f(1) == 2"),
        ("def f(x): return 'x' * 10**8", "assert f(1) == 2"),
        ("def f(x): return [0] * 10**7", "assert f(1) == 2"),
        ("def f(x): return 2\nf = 3", "assert f(1) == 2"),
        ("def f(x): return 2", "assert f(1) == 2\nassert g(1) == 2"),
        ("def f(x): return 2", "async def test_f():\n    assert f(1) == 3"),
        ("def f(x): return 3", "def test_f():\n    assert f(1) == 2"),
        (READS_TESTS, "expected = 87654321\nassert f(1), expected"),
        (MEMORY_OF_OTHERS, "assert f() > 0"),
        ("print(f := 2)", "def test_f(): pass\nassert f == 3"),
    ],
)
def test_wrong_solutions_fail_whatever_they_try(code, tests):
    assert run_code(code, tests, LONG) == "failed"


@pytest.mark.parametrize("call", ["x: (_ for _ in iter(int, 1)).__next__() or f(x)", "x: [None for _ in iter(int, 1)]"])
def test_calls_without_end_are_ended(call):
    assert run_code(f"f = lambda {call}", "assert f(1) == 2", 1.0) in ("timeout", "failed")
