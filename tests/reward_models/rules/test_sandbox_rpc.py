"""Tests that use a solution in another process: what they can do, and which tricks of a solution fail."""

import pytest

from reward_models.rules.sandbox import run_code

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


MONEY = """
import functools
@functools.total_ordering
class M:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == (other.x if isinstance(other, M) else other)
    def __lt__(self, other): return self.x < (other.x if isinstance(other, M) else other)
    def __hash__(self): return hash(self.x)
    def __add__(self, other): return M(self.x + (other.x if isinstance(other, M) else other))
    def __mul__(self, k): return M(self.x * k)
    __radd__, __rmul__ = __add__, __mul__
    def __contains__(self, x): return x == self.x
    def __bool__(self): return self.x != 0
    def __enter__(self):
        self.x = 7
        return self
    def __exit__(self, kind, error, trace):
        self.x = 8
        return True
"""
LINKED = """
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
def build(values): return Node(values[0], build(values[1:])) if values else None
"""
LINKED_TESTS = """
def values(node):
    found = []
    while node:
        found.append(node.value)
        node = node.next
    return found
def again(node): return [node.value, *again(node.next)] if node else []
assert values(build([1, 2])) == again(build([1, 2])) == [1, 2]
"""
CASES = """
import unittest
class TestF(unittest.TestCase):
    def test_f(self): self.assertEqual(f(2), 4)
    def test_raises(self):
        with self.assertRaises(TypeError): f(None)
"""
RUNS = [
    "unittest.main(exit=False)",
    "unittest.main()",
    "if __name__ == '__main__': unittest.main(argv=['x'])",
    "unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(TestF))",
]


@pytest.mark.parametrize("run", RUNS)
def test_the_results_of_unittest_decide(run):
    assert run_code("def f(x): return x * 2 + 0", CASES + run, LONG) == "passed"
    assert run_code("def f(x): return x + 0 * 2", CASES + run, LONG) == "failed"


@pytest.mark.parametrize("run", ["unittest", "import sys; sys.exit(0)", "if not unittest: unittest.main()"])
def test_unittest_cases_that_never_run_fail(run):
    assert run_code("def f(x): return x * 2 + 0", CASES + run, LONG) == "failed"


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("import collections\nP = collections.namedtuple('P', 'a b')\ndef f(p): return P(p.b, p.a)\np = P(1, 2)",
         "assert f(p).a == 2 and f(f(p)) == (1, 2) == f(f(p))[:] and p._fields == ('a', 'b')"),
        ("def f(k=0, l=None):\n    l.append(k)", "l = [1]\nf(l=l, k=2)\nassert l == [1, 2]"),
        (MONEY, "with M(1) as m:\n    assert m.x == 7\nassert m.x == 8"),
        (MONEY, "assert 1 in M(1) and 2 not in M(1) and M(1) == 1 != M(2) and M(1) < 2 and 3 > M(2) and not M(0)"),
        (MONEY, "assert (M(1) * 3).x == (3 * M(1)).x == 3 and (M(1) + 1).x == (1 + M(1)).x == 2 and M(1) * 3 == M(3)"),
        (MONEY, "assert len({M(1), M(1), M(2)}) == 2 and [m.x for m in sorted([M(3), M(1)])] == [1, 3]"),
        ("import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x * 2",
         "import asyncio\nasync def both(): return await asyncio.gather(f(1), f(2)), await f(3)\n"
         "assert asyncio.run(f(2)) == 4 and asyncio.run(both()) == ([2, 4], 6)"),
        (LINKED, LINKED_TESTS),
        ("class Bag:\n    def count(self, x): return 3\ndef f(): return Bag()", "assert f().count(1) == 3"),
    ],
)  # fmt: skip
def test_objects_of_the_solution_can_be_used_by_the_tests(code, tests):
    assert run_code(code, tests, LONG) == "passed"


TRUE_OF_ALL = """
class Yes:
    def __getattr__(self, name): return lambda *args: True
def f(x): return Yes()
"""
ITSELF = """
class Solution:
    def f(self, x): return self
    def __eq__(self, other): return True
    __lt__ = __contains__ = __eq__
    __hash__ = None
"""


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (TRUE_OF_ALL, "assert f('abc').startswith('x')"),
        (TRUE_OF_ALL, "assert f('abc').isdigit()"),
        (TRUE_OF_ALL, "assert f('abc').count('x')"),
        (TRUE_OF_ALL, "assert f('abc')"),
        (
            "class Yes:\n    def startswith(self, x): return True\ndef f(x): return Yes()",
            "assert f('a').startswith('x')",
        ),
        ("def f(x): return f", "assert f(1)"),
        ("def f(x): return f", "assert not not f(1)"),
        ("def f(x): return f", "assert all(f(x) for x in [1, 2])"),
        ("async def f(x): return x", "assert f(1)"),
        (ITSELF, "assert Solution().f(2) == 4"),
        (ITSELF, "assert Solution().f(2) < 4"),
        (ITSELF, "assert 4 in Solution().f(2)"),
        (ITSELF, "assert Solution().f(2)"),
        (ITSELF.replace("Solution", "f").replace("def f", "def g"), "assert f() == 4"),
        (MONEY, "with M(1) as m:\n    assert m.x == 3"),
        ("import asyncio\nasync def f(x): return x", "import asyncio\nassert asyncio.run(f(2)) == 4"),
    ],
)
def test_objects_do_not_count_as_values(code, tests):
    assert run_code(code, tests, LONG) == "failed"


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
import sys
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
def test_endless_calls_time_out(call):
    assert run_code(f"f = lambda {call}", "assert f(1) == 2", 1.0) in ("timeout", "failed")
