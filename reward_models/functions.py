"""Reward functions by name: `path/to/file.py:name` or `package.module:name`."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from alignment.errors import UserError


def load_function(spec: str) -> Callable:
    """The function that a recipe names.

    Raises:
        UserError: the name has no colon, there is no such file, module or function, or it cannot be imported.
    """
    place, colon, name = spec.rpartition(":")
    if not colon:
        raise UserError(f"{spec!r} names no function", needed="path/to/file.py:name or package.module:name")
    try:
        module = _load_file(place) if place.endswith(".py") else _load_module(place)
    except (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{place} cannot be imported",
            got=f"{type(error).__name__}: {error}",
            needed=f"a Python file or module that holds {name}",
            mend="correct it: `python` followed by its path shows where it fails",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{place} has no function {name!r}", mend="check the name after the colon")
    return function


def _load_file(place: str):
    path = Path(place)
    if not path.is_file():
        raise UserError(f"no file {place}", needed="the Python file that holds the reward function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_module(place: str):
    if importlib.util.find_spec(place.partition(".")[0]) is None:
        raise UserError(f"no module {place}", needed="an importable module, or a path that ends in .py")
    return importlib.import_module(place)
