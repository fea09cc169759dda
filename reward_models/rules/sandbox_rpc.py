"""Requests between the tests and a solution that runs in another process: JSON lines over a socket, either way.

The solution's process never has the tests or their expected values; it gets the arguments of calls. Values are copied,
so that no `==` of the solution's own compares them. Other objects stay in their process and are used from the other
through handles (`Remote`). Imports the standard library alone, as it runs in the processes of sandbox_child.py.
"""

from __future__ import annotations

import builtins
import importlib
import json
import operator
from collections import deque, namedtuple
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from socket import socket
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType, ModuleType
from typing import Any

from reward_models.rules.sandbox_remote import (
    BASES,
    METHODS,
    OPERATORS,
    PREDICATES,
    REVERSED,
    Remote,
    RemoteCoroutine,
    give_up,
)

Offer = str | bool | None  # a global name of the solution: a module's name, True for a class, None for anything else

LONGEST, MOST = 16 * 2**20, 2**20  # bytes of a message; elements of a collection in it
COPIED = (list, dict, set, bytearray, deque)  # collections that a call may change in place
SIZED = (str, bytes, bytearray, list, tuple, set, frozenset, dict, deque)

BY_TEXT: dict[str, Callable[[Any], object]] = {
    "decimal": Decimal,
    "fraction": Fraction,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "datetime": datetime.fromisoformat,
    "complex": complex,
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
}
BY_PARTS: dict[str, Callable[[Any], object]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "timedelta": lambda parts: timedelta(*parts),
    "dict": dict,
}

FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodType)
REQUESTS: dict[str, Callable[..., Any]] = {name: getattr(operator, f"__{name}__") for name in OPERATORS}
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


class RemoteError(Exception):
    """An exception of a class that the solution itself defines."""


class Peer:
    """One end of the socket.

    Args:
        names: the solution's global names, as its end answers any request; None for the tests' end, which answers only
            calls of functions that the tests have handed over.
    """

    def __init__(self, line: socket, names: dict[str, Any] | None = None):
        self.reader, self.writer = line.makefile("rb"), line.makefile("wb")
        self.names = names
        self.objects: list[object] = []  # by handle; kept, so that no address is used twice
        self.handles: dict[int, int] = {}
        self.remotes: dict[int, Remote] = {}
        self.tuples: dict[tuple, Callable[..., Any]] = {}  # named tuple classes received so far

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
                raise ValueError("not a message")
        except (OSError, ValueError, RecursionError):
            give_up()
        return message

    def ask(self, request: str, *arguments: object, **named: object) -> Any:
        """The other side's answer to a request; meanwhile it may send requests of its own."""
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

    def serve(self, request: str, arguments: Any, named: Any) -> None:
        """Answer a request with its result and the changes to its arguments, or with its exception."""
        answer: tuple[object, ...]
        try:
            if self.names is None and not (
                request == "call" and isinstance(arguments, dict) and _calls_mine(arguments)
            ):
                raise PermissionError(f"{request} is refused here")
            arguments, named = self.decode(arguments), self.decode(named)
            given = [*arguments, *named.values()]
            before = [self.encode(one) if isinstance(one, COPIED) else None for one in given]
            found = self.answer(request, arguments, named)
            after = [self.encode(one) if isinstance(one, COPIED) else None for one in given]
            changes = [[at, new] for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
            answer = ("answer", self.encode(found), changes)
        except BaseException as error:  # any exception of the code, sys.exit included, is its answer
            answer = ("error", *_described(error))
        self.send(*answer)

    def answer(self, request: str, arguments: tuple, named: dict) -> object:
        if self.names is not None and request == "name":
            return self.names[arguments[0]]
        return REQUESTS[request](*arguments, **named)

    def take_changes(self, arguments: tuple, changes: list) -> None:
        """Apply a call's changes to its copies of lists, dicts and so on to the originals here."""
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
        """The built-in exception that is nearest to one of the other side."""
        for name in names:
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (Exception, UnicodeDecodeError):
                try:
                    return kind(*map(str, texts))
                except TypeError:  # it takes other arguments
                    break
        return RemoteError(*names, *texts)

    # ---- Values ----

    def encode(self, value: Any) -> object:
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

    def encode_object(self, value: Any, kind: Any) -> object:
        """Any other object: as the built-in value that it is based on, otherwise as a handle."""
        if kind.__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", (1,)):
            return self.encode(value.item())
        if isinstance(value, BaseException) and kind.__module__ == "builtins":
            return {"exception": _described(value)}
        if isinstance(value, tuple) and _is_named(kind):
            return {"namedtuple": [kind.__name__, list(kind._fields), [self.encode(one) for one in tuple(value)]]}
        base: Any = next((one for one in BASES if isinstance(value, one)), None)
        if base is not None and not hasattr(kind, "__members__"):  # a Counter, a named tuple; no member of an Enum
            plain = list.__iter__(value) if base is list else dict.items(value) if base is dict else value
            return self.encode(base(plain))
        if isinstance(value, ModuleType) or (self.names is None and not isinstance(value, FUNCTIONS)):
            raise TypeError(f"a {kind.__name__} cannot be sent")
        if id(value) not in self.handles:
            self.handles[id(value)] = len(self.objects)
            self.objects.append(value)
        return {"coroutine" if kind is CoroutineType else "handle": self.handles[id(value)]}

    def remote_of(self, handle: int) -> Remote:
        """The other side's object behind a handle; if it was sent before, it no longer counts as made by the tests."""
        if handle in self.remotes:
            object.__setattr__(self.remotes[handle], "_made", False)
        return self.remotes.setdefault(handle, Remote(self, handle))

    def decode(self, value: Any) -> Any:
        """The value that JSON stands for, see `encode`."""
        if isinstance(value, list):
            return [self.decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        try:
            [(kind, content)] = value.items()
            if kind == "handle":
                return self.remote_of(int(content))
            if kind == "coroutine":
                return RemoteCoroutine(self, int(content))
            if kind == "namedtuple":
                name, fields, parts = content[0], tuple(content[1]), content[2]
                made = self.tuples.get((name, fields)) or namedtuple(name, fields)
                return self.tuples.setdefault((name, fields), made)(*map(self.decode, parts))
            if kind == "yours":
                return self.objects[content]
            if kind == "builtin":  # the tests accept only types, or they might call `eval`
                found = getattr(builtins, content)
                return found if self.names is not None or found in BASES else give_up()
            if kind == "exception":
                return self.exception(*content)
            if kind in BY_TEXT:
                return BY_TEXT[kind](content)
            return BY_PARTS[kind](map(self.decode, content)) if kind != "range" else range(*content)
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RecursionError):
            give_up()


def _attribute(value: Any, name: str) -> object:
    """An attribute; a method of Python's own types, such as `count`, only if it is defined, not by `__getattr__`."""
    kinds = (*type(value).__mro__, *(value.__mro__ if isinstance(value, type) else ()))
    places = [getattr(value, "__dict__", {}), *map(vars, kinds)]
    if name in METHODS and not any(name in place for place in places):
        raise AttributeError(name)
    return getattr(value, name)


def _is_named(kind: type) -> bool:
    """Whether a class of tuples has named fields, none of which hides a predicate such as `isdigit`."""
    fields = getattr(kind, "_fields", None)
    return isinstance(fields, tuple) and not PREDICATES & set(fields)


def _is_builtin(value: object) -> bool:
    return callable(value) and getattr(builtins, getattr(value, "__name__", ""), None) is value


def _calls_mine(arguments: dict) -> bool:
    """Whether the arguments of a call begin with a function that this side has handed over."""
    parts = arguments.get("tuple")
    return isinstance(parts, list) and isinstance(parts[0] if parts else None, dict) and list(parts[0]) == ["yours"]


def _described(error: BaseException) -> tuple[list[str], list[str]]:
    """(names of an exception's classes, the nearest first; its arguments as text)."""
    texts = [one if type(one) is str else repr(one) for one in error.args]
    return [one.__name__ for one in type(error).__mro__], texts


def serve_solution(line: socket, names: dict[str, Any]) -> None:
    """Answer the tests' requests until the tests end."""
    peer = Peer(line, names)
    peer.send("ready", {name: _offer(one) for name, one in names.items()})
    while True:
        kind, *rest = peer.receive()
        if kind == "ask" and len(rest) == 3:
            peer.serve(*rest)


def _offer(value: object) -> Offer:
    return value.__name__ if isinstance(value, ModuleType) else isinstance(value, type) or None
