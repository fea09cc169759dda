"""Check values read from YAML against the annotations of dataclass fields, and describe both in words."""

import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}


def fits(value: Any, hint: Any) -> bool:
    """Whether a field annotated `hint` accepts `value`; a whole number is accepted as a number."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in inner)
    if origin is Literal:
        return value in inner
    if origin in (list, tuple):
        members = [member for member in inner if member is not Ellipsis]
        return isinstance(value, list) and all(any(fits(item, member) for member in members) for item in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(fits(item, inner[1]) for item in value.values())
    if isinstance(value, bool) and hint in (int, float):
        return False
    if hint is float:
        return isinstance(value, int | float)
    if hint is tuple:
        return isinstance(value, list)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return value in [member.value for member in hint]
    return isinstance(value, origin or hint)


def describe(hint: Any) -> str:
    """An annotation in words: `list[str] | None` is 'a list of text, or null'."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return ", or ".join(dict.fromkeys(describe(member) for member in inner))
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, Enum)):
        choices = inner if origin is Literal else [member.value for member in hint]
        return "one of " + ", ".join(map(str, choices))
    if origin in (list, tuple) and inner:
        return f"a list of {describe(inner[0])}"
    if origin is dict:
        return "a mapping"
    return NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def describe_value(value: Any) -> str:
    """A value with its kind: `'fast' (text)`."""
    return f"{value!r} ({NAMES.get(type(value), type(value).__name__)})"
