"""How tests call a solution that lives in another process: requests as JSON lines over a socket, either way.

The solution's process never has the tests or what they expect: it gets the arguments of calls. Values go over as
values, so that an `==` of the solution's own is never asked about them; other objects stay where they are, and are
called and looked into from afar (`Remote`). Imports the standard library alone; sandbox_child.py runs it.
"""

import ast
import builtins
import importlib
import json
import operator
import os
import sys
from collections import deque, namedtuple
from contextlib import contextmanager, nullcontext
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType, ModuleType

LONGEST, MOST = 16 * 2**20, 2**20  # bytes of a message, elements of a list and so on in it
COPIED = (list, dict, set, bytearray, deque)  # what a call may change in place
SIZED = (str, bytes, bytearray, list, tuple, set, frozenset, dict, deque)
BASES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict)

BY_TEXT = {"decimal": Decimal, "fraction": Fraction, "date": date.fromisoformat, "time": time.fromisoformat}
BY_TEXT |= {"datetime": datetime.fromisoformat, "complex": complex, "int": lambda text: int(text, 16)}
BY_TEXT |= {"bytes": bytes.fromhex, "bytearray": bytearray.fromhex}
BY_PARTS = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
BY_PARTS |= {"range": lambda parts: range(*parts), "timedelta": lambda parts: timedelta(*parts), "dict": dict}

# Methods of Python's own types: those that say yes or no are taken of values alone, the others of no `__getattr__`.
METHODS = frozenset(name for kind in BASES for name in dir(kind) if not name.startswith("_"))
PREDICATES = frozenset(name for name in METHODS if name.startswith("is") or name in ("startswith", "endswith"))

FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType)
REVERSED = ("add", "sub", "mul", "truediv", "matmul", "and", "or", "xor")
OPERATORS = ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "matmul", "and", "or", "xor")
REQUESTS = {name: getattr(operator, f"__{name}__") for name in OPERATORS}
REQUESTS |= {f"r{name}": lambda one, other, name=name: REQUESTS[name](other, one) for name in REVERSED}
REQUESTS |= {
    "call": lambda function, *args, **named: function(*args, **named),
    "run": lambda coroutine: importlib.import_module("asyncio").run(coroutine),
    "enter": lambda manager: type(manager).__enter__(manager),
    "exit": lambda manager, *error: type(manager).__exit__(manager, *error, None),
    "contains": operator.contains,
    "hash": hash,
    "getattr": lambda value, name: _attribute(value, name),
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "len": len,
    "iter": iter,
    "next": next,
    "bool": bool,
    "str": str,
    "repr": repr,
    "isinstance": isinstance,
    "neg": operator.neg,
}


DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
SHORT_NAMES = {"np": "numpy", "pd": "pandas"}


def give_up():
    """End, as the other process has ended or says what cannot be read: an exception is what a test might catch."""
    os._exit(1)


class RemoteError(Exception):
    """An exception of the solution's that is none of Python's own."""


class Peer:
    """One end of the socket.

    Args:
        names: of the solution, its global names: it answers any request. None for the tests: they answer calls of
            functions that they have handed over, and nothing else.
    """

    def __init__(self, socket, names: dict | None = None):
        self.reader, self.writer = socket.makefile("rb"), socket.makefile("wb")
        self.names = names
        self.mine: list[object] = []  # by handle; kept, so that no address is used twice
        self.handles: dict[int, int] = {}
        self.theirs: dict[int, object] = {}
        self.tuples: dict[tuple, type] = {}  # the kinds of named tuple that have come

    # ---- Messages ----

    def send(self, *message: object) -> None:
        line = json.dumps(message).encode() + b"\n"
        if len(line) > LONGEST:
            raise ValueError("a message too long to be sent")
        try:
            self.writer.write(line)
            self.writer.flush()
        except OSError:
            give_up()

    def receive(self) -> list:
        try:
            line = self.reader.readline(LONGEST)
            message = json.loads(line)
            if not isinstance(message, list) or not message:
                raise ValueError("no message")
        except (OSError, ValueError, RecursionError):
            give_up()
        return message

    def ask(self, request: str, *arguments: object, **named: object) -> object:
        """What the other side answers to a request; it may ask back meanwhile."""
        self.send("ask", request, self.encode(arguments), self.encode(named))
        while True:
            kind, *rest = self.receive()
            if kind == "ask":
                self.serve(*rest)
            elif kind == "answer" and len(rest) == 2:
                self.take_changes((*arguments, *named.values()), rest[1])
                return self.decode(rest[0])
            elif kind == "error" and len(rest) == 2:
                raise self.exception(*rest)
            else:
                give_up()

    def serve(self, request: str, arguments: object, named: object) -> None:
        try:
            if self.names is None and not (
                request == "call" and isinstance(arguments, dict) and _calls_mine(arguments)
            ):
                raise PermissionError(f"{request} is refused here")
            arguments, named = self.decode(arguments), self.decode(named)
            given = [*arguments, *named.values()]
            before = [self.encode(one) if isinstance(one, COPIED) else None for one in given]
            found = self.names[arguments[0]] if request == "name" else REQUESTS[request](*arguments, **named)
            after = [self.encode(one) if isinstance(one, COPIED) else None for one in given]
            changes = [[at, new] for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
            answer = ("answer", self.encode(found), changes)
        except BaseException as error:  # whatever the code raises, sys.exit included, is the answer
            answer = ("error", *_described(error))
        self.send(*answer)

    def take_changes(self, arguments: tuple, changes: list) -> None:
        """Do to a list, dict and so on here what the call has done to its copy there."""
        for at, new in changes:
            mine, new = arguments[at], self.decode(new)
            if type(mine) is not type(new) or not isinstance(mine, COPIED):
                give_up()
            if isinstance(mine, list | bytearray):
                mine[:] = new
            else:
                mine.clear()
                (mine.extend if isinstance(mine, deque) else mine.update)(new)

    @staticmethod
    def exception(names: list, texts: list) -> Exception:
        """The exception of Python's own that is nearest to one of the other side's."""
        for name in names:
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (Exception, UnicodeDecodeError):
                try:
                    return kind(*map(str, texts))
                except TypeError:  # it takes other arguments
                    break
        return RemoteError(*names, *texts)

    # ---- Values ----

    def encode(self, value: object) -> object:
        """A value as JSON: itself, {kind: parts}, or a handle."""
        kind = type(value)
        if kind in SIZED and len(value) > (MOST if kind not in (str, bytes, bytearray) else LONGEST):
            raise ValueError("a value too long to be sent")
        if value is None or kind in (bool, str):
            return value
        if kind is float:
            return value
        if kind is int:
            return value if abs(value) < 2**53 else {"int": hex(value)}
        if kind is list:
            return [self.encode(one) for one in value]
        if kind in (Remote, RemoteCoroutine):
            return {"yours": value._handle}
        if kind is dict:
            return {"dict": [[self.encode(key), self.encode(one)] for key, one in value.items()]}
        if kind in (bytes, bytearray):
            return {kind.__name__: value.hex()}
        if kind in (tuple, set, frozenset, deque):
            return {kind.__name__: [self.encode(one) for one in value]}
        if kind in (Decimal, Fraction):
            return {kind.__name__.lower(): str(value)}
        if kind in (date, time, datetime):
            return {kind.__name__: value.isoformat()}
        if kind is complex:
            return {"complex": repr(value)}
        if kind is range:
            return {"range": [value.start, value.stop, value.step]}
        if kind is timedelta:
            return {"timedelta": [value.days, value.seconds, value.microseconds]}
        if (kind is type and value in BASES) or (self.names is None and _is_builtin(value)):
            return {"builtin": value.__name__}
        return self.encode_object(value, kind)

    def encode_object(self, value: object, kind: type) -> object:
        if kind.__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", (1,)):
            return self.encode(value.item())
        if isinstance(value, BaseException) and kind.__module__ == "builtins":
            return {"exception": _described(value)}
        if isinstance(value, tuple) and _is_named(kind):
            return {"namedtuple": [kind.__name__, list(kind._fields), [self.encode(one) for one in tuple(value)]]}
        base = next((one for one in BASES if isinstance(value, one)), None)
        if base is not None and not hasattr(kind, "__members__"):  # a Counter, a named tuple; no member of an Enum
            plain = list.__iter__(value) if base is list else dict.items(value) if base is dict else value
            return self.encode(base(plain))
        if isinstance(value, ModuleType) or (self.names is None and not isinstance(value, FUNCTIONS)):
            raise TypeError(f"a {kind.__name__} cannot be handed over")
        if id(value) not in self.handles:
            self.handles[id(value)] = len(self.mine)
            self.mine.append(value)
        return {"coroutine" if kind is CoroutineType else "handle": self.handles[id(value)]}

    def theirs_of(self, handle: int) -> "Remote":
        """The object of the other side's that a handle stands for; what has come back is none that the tests made."""
        if handle in self.theirs:
            object.__setattr__(self.theirs[handle], "_made", False)
        return self.theirs.setdefault(handle, Remote(self, handle))

    def decode(self, value: object) -> object:
        if isinstance(value, list):
            return [self.decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        try:
            [(kind, content)] = value.items()
            if kind == "handle":
                return self.theirs_of(int(content))
            if kind == "coroutine":
                return RemoteCoroutine(self, int(content))
            if kind == "namedtuple":
                name, fields, parts = content[0], tuple(content[1]), content[2]
                made = self.tuples.get((name, fields)) or namedtuple(name, fields)
                return self.tuples.setdefault((name, fields), made)(*map(self.decode, parts))
            if kind == "yours":
                return self.mine[content]
            if kind == "builtin":  # the tests take types alone: no `eval` that they would call
                found = getattr(builtins, content)
                return found if self.names is not None or found in BASES else give_up()
            if kind == "exception":
                return self.exception(*content)
            if kind in BY_TEXT:
                return BY_TEXT[kind](content)
            return BY_PARTS[kind](map(self.decode, content)) if kind != "range" else range(*content)
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RecursionError):
            give_up()


class Remote:
    """An object of the other process: a function, a class, an instance, a generator.

    It equals nothing but objects of that process: `f(1) == 2` is false where f returns an object whose own `==` says
    yes to everything. Only an instance that the tests themselves have made, of a class that they call by a name with a
    capital letter, is asked how it compares with a plain value or what it holds, until a call returns it: a method that
    returns `self` gives no value.
    """

    def __init__(self, peer: Peer, handle: int):
        object.__setattr__(self, "_ask", peer.ask)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_asks_all", peer.names is None)
        object.__setattr__(self, "_makes", False)  # a class whose instances the tests may judge with
        object.__setattr__(self, "_made", None)  # by the tests; False where it has come back since

    def __call__(self, *args, **named):
        found = self._ask("call", self, *args, **named)
        if self._makes and type(found) is Remote and found._made is None:
            object.__setattr__(found, "_made", True)
        return found

    def __getattr__(self, name: str):
        if name.startswith("__") and name not in ("__name__", "__doc__", "__dict__", "__members__"):
            raise AttributeError(name)
        if name in PREDICATES:
            raise AttributeError(f"{name} is asked of values alone")
        return self._ask("getattr", self, name)

    def __setattr__(self, name: str, value: object):
        self._ask("setattr", self, name, value)

    def __getitem__(self, key: object):
        return self._ask("getitem", self, key)

    def __setitem__(self, key: object, value: object):
        self._ask("setitem", self, key, value)

    def __len__(self):
        return self._ask("len", self)

    def __iter__(self):
        return self._ask("iter", self)

    def __next__(self):
        return self._ask("next", self)

    def __bool__(self):
        if not self._made:
            raise TypeError("an object is no truth value; compare it")
        return self._ask("bool", self) is True

    def __contains__(self, item: object):
        return self._ask("contains", self, item) is True if self._made else any(one == item for one in iter(self))

    def __enter__(self):
        return self._ask("enter", self)

    def __exit__(self, kind, error, trace):
        self._ask("exit", self, kind, error)  # what the tests raise is not for it to suppress

    def __str__(self):
        return self._ask("str", self)

    def __repr__(self):
        return self._ask("repr", self)

    def __instancecheck__(self, instance: object):
        return isinstance(instance, Remote) and self._ask("isinstance", instance, self) is True

    def __hash__(self):
        found = self._ask("hash", self) if self._asks_all else self._handle
        return found if type(found) is int else give_up()


class RemoteCoroutine(Remote):
    """A coroutine of the other process, which runs there, to its end, once it is awaited."""

    def __getattr__(self, name: str):
        raise AttributeError(name)  # it has nothing else: no `cr_code` for asyncio to look into

    def __await__(self):
        yield from ()
        return self._ask("run", self)

    def __next__(self):  # what a task of asyncio's calls
        raise StopIteration(self._ask("run", self))

    def send(self, value: None):
        return next(self)

    def throw(self, error: BaseException, *rest: object):
        raise error

    def close(self):
        """It has not begun."""


def _operator(name: str):
    def between(self, other):
        if not self._made and not isinstance(other, Remote):
            return NotImplemented
        return self._ask(name, self, other)

    return between


for _name in (*OPERATORS, *(f"r{name}" for name in REVERSED)):
    setattr(Remote, f"__{_name}__", _operator(_name))


def _attribute(value: object, name: str) -> object:
    """An attribute; a method of Python's own types, such as `count`, only where it is defined: no `__getattr__`."""
    kinds = (*type(value).__mro__, *(value.__mro__ if isinstance(value, type) else ()))
    places = [getattr(value, "__dict__", {}), *map(vars, kinds)]
    if name in METHODS and not any(name in place for place in places):
        raise AttributeError(name)
    return getattr(value, name)


def _is_named(kind: type) -> bool:
    """Whether a kind of tuple has named fields, none of which takes the place of a method that says yes or no."""
    fields = getattr(kind, "_fields", None)
    return isinstance(fields, tuple) and not PREDICATES & set(fields)


def _is_builtin(value: object) -> bool:
    return callable(value) and getattr(builtins, getattr(value, "__name__", ""), None) is value


def _calls_mine(arguments: dict) -> bool:
    """Whether the arguments of a call begin with a function that this side has handed over."""
    parts = arguments.get("tuple")
    return isinstance(parts, list) and isinstance(parts[0] if parts else None, dict) and list(parts[0]) == ["yours"]


def _described(error: BaseException) -> tuple[list[str], list[str]]:
    """An exception as the names of its classes, the nearest first, and its arguments as text."""
    texts = [one if type(one) is str else repr(one) for one in error.args]
    return [one.__name__ for one in type(error).__mro__], texts


class Names(dict):
    """The tests' name space: their own names, then the solution's, then Python's.

    A module that the solution has imported under its own name is imported here as well: the solution's own may be
    patched, `math.isclose` to say yes.

    Args:
        offered: the solution's global names; of modules with the module's name, of classes with True.
    """

    def __init__(self, peer: Peer, offered: dict[str, str | bool | None]):
        super().__init__(__name__="__main__", __builtins__=builtins, __truth__=truth)
        self.peer, self.offered = peer, offered

    def __missing__(self, name: str):
        if name not in self.offered:
            raise KeyError(name)
        module = self.offered[name]
        if module is None or module is True:
            found = self.peer.ask("name", name)
            if module is True and name[0].isupper() and type(found) is Remote:
                object.__setattr__(found, "_makes", True)
            return found
        if module not in (name, SHORT_NAMES.get(name)):
            raise KeyError(name)
        return importlib.import_module(module)


def serve_solution(socket, names: dict) -> None:
    """Answer the tests' requests until they end."""
    peer = Peer(socket, names)
    offered = {name: _offer(one) for name, one in names.items()}
    peer.send("ready", offered)
    while True:
        kind, *rest = peer.receive()
        if kind == "ask" and len(rest) == 3:
            peer.serve(*rest)


def _offer(value: object) -> str | bool | None:
    return value.__name__ if isinstance(value, ModuleType) else isinstance(value, type) or None


def run_tests(socket, tests: str) -> None:
    """Run the tests of a solution; what they raise goes on."""
    peer, code = Peer(socket), compile(Truths().visit(ast.parse(tests)), "tests", "exec")
    ready, offered = peer.receive()
    if ready != "ready" or not isinstance(offered, dict):
        give_up()
    own = {name for name in offered if not hasattr(builtins, name)}
    if own & names_of(code):  # a `set` or `sorted` of the solution's does not judge what its functions return
        offered = {name: module for name, module in offered.items() if name in own}
    names = Names(peer, offered)
    with unittest_results(names) if "unittest" in tests else nullcontext():
        exec(code, names)
    for name in test_functions(tests) if runs_nothing(tests) else ():
        if names[name]() is not None:
            raise TypeError(f"{name} returned something: a coroutine that did not run?")


class Truths(ast.NodeTransformer):
    """Lets `while node:`, and `if node:`, ask an object for its truth; nothing else may, `assert f(1)` least of all."""

    def visit_test(self, node: ast.While | ast.If | ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        node.test = self.asked(node.test)
        return node

    visit_While = visit_If = visit_IfExp = visit_test

    def asked(self, test: ast.expr) -> ast.expr:
        if isinstance(test, ast.BoolOp):
            test.values = [self.asked(one) for one in test.values]
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test.operand = self.asked(test.operand)
        elif isinstance(test, ast.Name | ast.Attribute):
            call = ast.Call(ast.Name("__truth__", ast.Load()), [test], [])
            return ast.fix_missing_locations(ast.copy_location(call, test))
        return test


def truth(value: object) -> object:
    return value._ask("bool", value) is True if isinstance(value, Remote) else value


class TestsModule(ModuleType):
    """The tests as the module `__main__`, where `unittest.main` looks for them."""

    def __init__(self, names: dict):
        super().__init__("__main__")
        self._names = names

    def __dir__(self):
        return list(self._names)

    def __getattr__(self, name: str):
        if name not in self._names:
            raise AttributeError(name)
        return self._names[name]


@contextmanager
def unittest_results(names: dict):
    """Whatever the tests do with unittest's results, they count: one that failed, or test cases that never ran.

    `unittest.main()` ends with an exit of its own, `exit=False` and a runner return results that nobody looks at.
    """
    unittest, results = importlib.import_module("unittest"), []
    run = unittest.TestCase.run

    def noted(case, result=None):
        results.append(run(case, result) or result)
        return results[-1]

    unittest.TestCase.run = noted
    sys.modules["__main__"], sys.argv[1:] = TestsModule(names), []
    try:
        yield
    except SystemExit as error:
        if error.code or not results:
            raise
    cases = [one for one in names.values() if isinstance(one, type) and issubclass(one, unittest.TestCase)]
    if (cases and not results) or not all(one.wasSuccessful() for one in results):
        raise AssertionError("a unittest failed, or none ran")


def names_of(code) -> set[str]:
    """All global names, and names of attributes, that code uses."""
    return {*code.co_names}.union(*(names_of(one) for one in code.co_consts if hasattr(one, "co_names")))


def runs_nothing(tests: str) -> bool:
    """Whether tests only define and import, such as a `check(candidate)` that nobody calls."""

    def runs(one: ast.stmt) -> bool:
        if isinstance(one, ast.Expr | ast.Assign):  # a docstring, a constant
            return any(isinstance(part, ast.Call) for part in ast.walk(one))
        return not isinstance(one, DEFINES)

    return not any(map(runs, ast.parse(tests).body))


def test_functions(tests: str) -> list[str]:
    """Functions that pytest would run."""
    return [one.name for one in ast.parse(tests).body if isinstance(one, DEFINES[:2]) and one.name.startswith("test")]
