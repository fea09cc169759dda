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
from collections import deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

LONGEST, MOST = 16 * 2**20, 2**20  # bytes of a message, elements of a list and so on in it
COPIED = (list, dict, set, bytearray, deque)  # what a call may change in place
SIZED = (str, bytes, bytearray, list, tuple, set, frozenset, dict, deque)
BASES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict)

BY_TEXT = {"decimal": Decimal, "fraction": Fraction, "date": date.fromisoformat, "time": time.fromisoformat}
BY_TEXT |= {"datetime": datetime.fromisoformat, "complex": complex, "int": lambda text: int(text, 16)}
BY_TEXT |= {"bytes": bytes.fromhex, "bytearray": bytearray.fromhex}
BY_PARTS = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
BY_PARTS |= {"range": lambda parts: range(*parts), "timedelta": lambda parts: timedelta(*parts), "dict": dict}

FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType)
OPERATORS = ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "matmul", "and", "or", "xor")
REQUESTS = {name: getattr(operator, f"__{name}__") for name in OPERATORS} | {
    "call": lambda function, *args, **named: function(*args, **named),
    "getattr": getattr,
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
                self.take_changes(arguments, rest[1])
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
            before = [self.encode(one) if isinstance(one, COPIED) else None for one in arguments]
            found = self.names[arguments[0]] if request == "name" else REQUESTS[request](*arguments, **named)
            after = [self.encode(one) if isinstance(one, COPIED) else None for one in arguments]
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
        if kind is Remote:
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
        base = next((one for one in BASES if isinstance(value, one)), None)
        if base is not None and not hasattr(kind, "__members__"):  # a Counter, a named tuple; no member of an Enum
            plain = list.__iter__(value) if base is list else dict.items(value) if base is dict else value
            return self.encode(base(plain))
        if isinstance(value, ModuleType) or (self.names is None and not isinstance(value, FUNCTIONS)):
            raise TypeError(f"a {kind.__name__} cannot be handed over")
        if id(value) not in self.handles:
            self.handles[id(value)] = len(self.mine)
            self.mine.append(value)
        return {"handle": self.handles[id(value)]}

    def decode(self, value: object) -> object:
        if isinstance(value, list):
            return [self.decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        try:
            [(kind, content)] = value.items()
            if kind == "handle":
                return self.theirs.setdefault(int(content), Remote(self, int(content)))
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
    yes to everything.
    """

    def __init__(self, peer: Peer, handle: int):
        object.__setattr__(self, "_ask", peer.ask)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *args, **named):
        return self._ask("call", self, *args, **named)

    def __getattr__(self, name: str):
        if name.startswith("__") and name not in ("__name__", "__doc__", "__dict__", "__members__"):
            raise AttributeError(name)
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
        return self._ask("bool", self)

    def __str__(self):
        return self._ask("str", self)

    def __repr__(self):
        return self._ask("repr", self)

    def __instancecheck__(self, instance: object):
        return isinstance(instance, Remote) and self._ask("isinstance", instance, self) is True

    def __hash__(self):
        return self._handle


def _operator(name: str):
    def between(self, other):
        return self._ask(name, self, other) if isinstance(other, Remote) else NotImplemented

    return between


for _name in OPERATORS:
    setattr(Remote, f"__{_name}__", _operator(_name))


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
        offered: the solution's global names; of modules with the module's name.
    """

    def __init__(self, peer: Peer, offered: dict[str, str | None]):
        super().__init__(__name__="__main__", __builtins__=builtins)
        self.peer, self.offered = peer, offered

    def __missing__(self, name: str):
        if name not in self.offered:
            raise KeyError(name)
        module = self.offered[name]
        if module is None:
            return self.peer.ask("name", name)
        if module not in (name, SHORT_NAMES.get(name)):
            raise KeyError(name)
        return importlib.import_module(module)


def serve_solution(socket, names: dict) -> None:
    """Answer the tests' requests until they end."""
    peer = Peer(socket, names)
    modules = {name: one.__name__ if isinstance(one, ModuleType) else None for name, one in names.items()}
    peer.send("ready", modules)
    while True:
        kind, *rest = peer.receive()
        if kind == "ask" and len(rest) == 3:
            peer.serve(*rest)


def run_tests(socket, tests: str) -> None:
    """Run the tests of a solution; what they raise goes on."""
    peer, code = Peer(socket), compile(tests, "tests", "exec")
    ready, offered = peer.receive()
    if ready != "ready" or not isinstance(offered, dict):
        give_up()
    own = {name for name in offered if not hasattr(builtins, name)}
    if own & names_of(code):  # a `set` or `sorted` of the solution's does not judge what its functions return
        offered = {name: module for name, module in offered.items() if name in own}
    names = Names(peer, offered)
    exec(code, names)
    for name in test_functions(tests) if runs_nothing(tests) else ():
        if names[name]() is not None:
            raise TypeError(f"{name} returned something: a coroutine that did not run?")


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
