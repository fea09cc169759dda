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
from typing import Any, get_type_hints

from alignment.errors import UserError, did_you_mean
from alignment.name_options import read_options, split_name

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
    address, query = split_name(spec)
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
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"{place} has no function {name!r}",
            got=spec,
            expected="FILE.py:FUNCTION or MODULE:FUNCTION",
            fix=did_you_mean(name, known, "check the name after the colon"),
        )
    return function, None if query is None else _read_options(function, name, query)


def _read_options(function: Callable, name: str, query: str) -> dict[str, Any]:
    """Read options by the types and defaults of the function's own signature."""
    parameters = inspect.signature(function).parameters
    hints = get_type_hints(function if inspect.isroutine(function) else function.__init__)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    required = [key for key, one in parameters.items() if one.default is one.empty and one.kind not in variable]
    return read_options(query, name, {key: hints.get(key, Any) for key in parameters}, required=required)


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
