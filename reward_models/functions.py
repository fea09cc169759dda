"""Rewards by name: `rules:name`, `path/to/file.py:name` or `package.module:name`, with options `?key=value&key=value`.

Without a `?` the name is the reward function itself. With a `?`, even without options, the name is a function that is
called with the options and returns the reward function.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from alignment.errors import UserError, raise_all, unknown

# Short names of this package's modules; a recipe may also write reward_models.NAME.
MODULES = {
    "api_judge": "reward_models.judges.api",
    "ensembles": "reward_models.ensembles",
    "learned": "reward_models.learned",
    "local_judge": "reward_models.judges.local",
    "rules": "reward_models.rules.rules",
    "tinyworld": "reward_models.tinyworld",
}


def load_function(spec: str) -> Callable:
    """The reward function that a recipe names, made with its options.

    Raises:
        UserError: as for `check_function`, or as the options' values lead to, such as a missing checkpoint.
    """
    function, options = _resolve(spec)
    return function if options is None else function(**options)


def check_function(spec: str) -> None:
    """Raise for an invalid name, option or value, without making the reward.

    Raises:
        UserError: the name has no colon, the file, module, function or option does not exist, or an import fails.
    """
    _resolve(spec)


def _resolve(spec: str) -> tuple[Callable, dict[str, Any] | None]:
    address, query, text = spec.partition("?")
    place, colon, name = address.rpartition(":")
    if not colon:
        raise UserError(f"{spec!r} names no function", expected="path/to/file.py:name or package.module:name")
    try:
        module = _load_file(place) if place.endswith(".py") else _load_module(place)
    except (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{place} cannot be imported",
            got=f"{type(error).__name__}: {error}",
            expected=f"a Python file or module that defines {name}",
            fix="correct it; `python PATH` shows where it fails",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{place} has no function {name!r}", fix="check the name after the colon")
    return function, _read_options(function, name, text) if query else None


def _read_options(function: Callable, name: str, text: str) -> dict[str, Any]:
    """`key=value&key=value` by the function's own signature; `%26` stands for & in a value, `%25` for %."""
    parameters = inspect.signature(function).parameters
    kinds = get_type_hints(function if inspect.isroutine(function) else function.__init__)
    options, errors = {}, []
    for option in filter(None, text.split("&")):
        key, _, value = option.partition("=")
        if key not in parameters:
            errors.append(unknown(f"option of {name}", key, tuple(parameters)))
            continue
        try:
            options[key] = _convert(unquote(value), kinds.get(key, str))
        except ValueError:
            errors.append(UserError(f"{name}: {key} has no such value", got=value, expected=_kind_name(kinds[key])))
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    expected = [key for key, one in parameters.items() if one.default is one.empty and one.kind not in variable]
    missing = [key for key in expected if key not in options]
    if missing and not errors:
        errors.append(UserError(f"{name} needs more options", got=text or "none", expected=", ".join(missing)))
    raise_all(errors)
    return options


def _convert(value: str, kind: Any) -> Any:
    """A value as the type that the parameter is annotated with; a list's values stand between commas."""
    choices = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) in (list, tuple):
        return [_convert(part, choices[0]) for part in value.split(",")]
    if get_origin(kind) is Union or isinstance(kind, type(int | None)):
        return _convert(value, choices[0])
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    return kind(value) if kind in (int, float) else value


def _kind_name(kind: Any) -> str:
    return "true or false" if kind is bool else getattr(kind, "__name__", str(kind))


def _load_file(place: str) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        raise UserError(f"no file {place}", expected="the Python file with the reward function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # as the name ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_module(place: str) -> ModuleType:
    place = MODULES.get(place.removeprefix("reward_models."), place)
    if importlib.util.find_spec(place.partition(".")[0]) is None:
        raise UserError(f"no module {place}", expected="an importable module, or a path that ends in .py")
    return importlib.import_module(place)
