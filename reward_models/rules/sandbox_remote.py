"""Objects of the other process: each operation on them becomes a request to it.

Imports the standard library alone, as it runs in the processes of sandbox_child.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from reward_models.rules.sandbox_rpc import Peer

BASES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict)

# Methods of Python's own types. Predicates are called on values alone; the others never reach a `__getattr__`.
METHODS = frozenset(name for kind in BASES for name in dir(kind) if not name.startswith("_"))
PREDICATES = frozenset(name for name in METHODS if name.startswith("is") or name in ("startswith", "endswith"))

REVERSED = ("add", "sub", "mul", "truediv", "matmul", "and", "or", "xor")
OPERATORS = ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "matmul", "and", "or", "xor")


def give_up() -> NoReturn:
    """End this process, as the other one has ended or sent something unreadable; tests could catch an exception."""
    os._exit(1)


class Remote:
    """An object of the other process: a function, a class, an instance, a generator.

    It equals nothing but objects of that process: `f(1) == 2` is false if f returns an object whose own `==` always
    says yes. The exception is an instance that the tests themselves made, by calling a class under a name with a
    capital letter: it is asked how it compares with a plain value and what it contains, until a call returns it (a
    method that returns `self` gives no value).
    """

    _ask: Callable[..., Any]
    _handle: int
    _asks_all: bool
    _makes: bool
    _made: bool | None

    def __init__(self, peer: Peer, handle: int):
        object.__setattr__(self, "_ask", peer.ask)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_asks_all", peer.names is None)
        object.__setattr__(self, "_makes", False)  # whether it is a class whose instances the tests may judge with
        object.__setattr__(self, "_made", None)  # True: made by the tests; False: returned by a call since then

    def __call__(self, *args: object, **named: object) -> Any:
        found = self._ask("call", self, *args, **named)
        if self._makes and type(found) is Remote and found._made is None:
            object.__setattr__(found, "_made", True)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__", "__dict__", "__members__"):
            raise AttributeError(name)
        if name in PREDICATES:
            raise AttributeError(f"{name} is called on values alone")
        return self._ask("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._ask("setattr", self, name, value)

    def __getitem__(self, key: object) -> Any:
        return self._ask("getitem", self, key)

    def __setitem__(self, key: object, value: object) -> None:
        self._ask("setitem", self, key, value)

    def __len__(self) -> int:
        return self._ask("len", self)

    def __iter__(self) -> Iterator[Any]:
        return self._ask("iter", self)

    def __next__(self) -> Any:
        return self._ask("next", self)

    def __bool__(self) -> bool:
        if not self._made:
            raise TypeError("an object has no truth value; compare it")
        return self._ask("bool", self) is True

    def __contains__(self, item: object) -> bool:
        return self._ask("contains", self, item) is True if self._made else any(one == item for one in iter(self))

    def __enter__(self) -> Any:
        return self._ask("enter", self)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._ask("exit", self, kind, error)  # it cannot suppress an exception of the tests

    def __str__(self) -> str:
        return self._ask("str", self)

    def __repr__(self) -> str:
        return self._ask("repr", self)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Remote) and self._ask("isinstance", instance, self) is True

    def __hash__(self) -> int:
        found = self._ask("hash", self) if self._asks_all else self._handle
        return found if type(found) is int else give_up()


class RemoteCoroutine(Remote):
    """A coroutine of the other process, which runs there, to its end, once it is awaited."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # no `cr_code` or the like for asyncio to look into

    def __await__(self) -> Generator[None, None, Any]:
        yield from ()
        return self._ask("run", self)

    def __next__(self) -> Any:  # called by an asyncio task
        raise StopIteration(self._ask("run", self))

    def send(self, value: None) -> Any:
        return next(self)

    def throw(self, error: BaseException, *rest: object) -> None:
        raise error

    def close(self) -> None:
        """Do nothing: the coroutine has not begun."""


def _operator(name: str) -> Callable[[Remote, object], Any]:
    def between(self: Remote, other: object) -> Any:
        if not self._made and not isinstance(other, Remote):
            return NotImplemented
        return self._ask(name, self, other)

    return between


for _name in (*OPERATORS, *(f"r{name}" for name in REVERSED)):
    setattr(Remote, f"__{_name}__", _operator(_name))


def truth(value: object) -> object:
    """The truth value of an object of the other process; any other value as it is."""
    return value._ask("bool", value) is True if isinstance(value, Remote) else value
