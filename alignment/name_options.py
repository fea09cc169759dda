"""Options in names: `name?key=value&key=value`, with the scalars of recipes (YAML 1.2).

The names of data sets, evaluation suites and rewards take options in this form. In a value `%26` stands for `&` and
`%25` for `%`, as in a URL.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin
from urllib.parse import unquote

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode

from alignment.errors import UserError, raise_all, unknown

SCALAR_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def split_name(name: str) -> tuple[str, str | None]:
    """Split a name at its first `?` into the address before it and the query (None without a `?`)."""
    address, mark, query = name.partition("?")
    return address, query if mark else None


def is_function(name: str) -> bool:
    """Whether a name is that of a function, FILE.py:NAME or MODULE:NAME, with or without options, and of no file."""
    return ":" in split_name(name)[0] and not Path(name).exists()


def read_options(
    query: str,
    what: str,
    annotations: Mapping[str, Any],
    *,
    required: Collection[str] = (),
    others_allowed: bool = False,
) -> dict[str, Any]:
    """Read `key=value&key=value`, each value by the annotation of its key; of a repeated key the last value counts.

    Args:
        query: the text after the `?`.
        what: owner of the options, for errors, such as `the suite gsm8k`.
        annotations: key -> type annotation; `Any` reads the value as a YAML 1.2 scalar.
        required: keys without which there is an error.
        others_allowed: read keys without an annotation, as with `Any`, rather than refuse them.

    Raises:
        UserError: all unknown and missing keys, and all values of a wrong type, together.
    """
    options: dict[str, Any] = {}
    errors: list[UserError] = []
    for option in filter(None, query.split("&")):
        key, equals, text = option.partition("=")
        annotation = annotations.get(key, Any)
        if key not in annotations and not others_allowed:
            errors.append(unknown(f"option of {what}", key, tuple(annotations)))
        elif not equals:
            errors.append(UserError(f"The option {key} of {what} has no value.", got=option, expected=f"{key}=VALUE"))
        else:
            options[key] = None
            try:
                options[key] = convert(unquote(text), annotation)
            except ValueError:
                problem = f"The option {key} of {what} cannot take this value."
                errors.append(UserError(problem, got=text or "nothing", expected=describe(annotation)))
    missing = [key for key in required if key not in options]
    if missing and not errors:
        errors.append(UserError(f"Options of {what} are missing.", got=query or "none", expected=", ".join(missing)))
    raise_all(errors)
    return options


def convert(text: str, annotation: Any) -> Any:
    """Convert the text of an option to the type that an annotation asks for; commas separate the values of a list.

    Raises:
        ValueError: the text has no such value.
    """
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _convert_to_any_of(text, members)
    if origin in (list, tuple, Sequence):
        return [convert(part, members[0]) for part in text.split(",")]
    value = scalar(text)
    if annotation is Any:
        return value
    if annotation is float and type(value) is int:
        return float(value)
    if origin is Literal:
        value = text if text in members else value
        if value not in members:
            raise ValueError(text)
    elif annotation not in (bool, int, float):
        return text
    elif type(value) is not annotation:
        raise ValueError(text)
    return value


def _convert_to_any_of(text: str, members: tuple[Any, ...]) -> Any:
    """Convert to the first member of a union that takes the text."""
    if NoneType in members and scalar(text) is None:
        return None
    for member in (member for member in members if member is not NoneType):
        try:
            return convert(text, member)
        except ValueError:
            continue
    raise ValueError(text)


def scalar(text: str) -> Any:
    """Return the value of a plain YAML 1.2 scalar: 1e-3 is a number, true is a bool, yes and 2026-01-31 are text."""
    yaml = YAML(typ="safe", pure=True)
    tag = str(yaml.resolver.resolve(ScalarNode, text, (True, False)))
    return yaml.constructor.construct_object(ScalarNode(tag, text)) if tag in SCALAR_TAGS else text


def describe(annotation: Any) -> str:
    """Put an annotation into words: `int | None` is "a whole number, or null"."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return ", or ".join(dict.fromkeys(describe(member) for member in members))
    if origin in (list, tuple, Sequence):
        return f"{describe(members[0])}, several with commas between them"
    if origin is Literal:
        return "one of " + ", ".join(map(str, members))
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))
