"""Rewards by name: `rules:name`, `path/to/file.py:name` or `package.module:name`, with options `?key=value&key=value`.

Without a `?` the name is the reward function itself. With a `?`, even without options, the name is a function that is
called with the options and returns the reward function.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

from alignment.errors import UserError, did_you_mean
from alignment.name_options import read_options, split_name
from reward_models.calls import Checked, checked, missing_columns, name_of, parameters_of, source_of
from reward_models.protocol import COLUMN
from reward_models.user_code import user_code

# Short names of this package's modules; a recipe may also write reward_models.NAME.
MODULES = {
    "api_judge": "reward_models.judges.api",
    "ensembles": "reward_models.ensembles",
    "learned": "reward_models.learned",
    "local_judge": "reward_models.judges.local",
    "rules": "reward_models.rules.rules",
    "tinyworld": "reward_models.tinyworld",
}
Options = dict[str, Any]


def load_reward(spec: str) -> Checked:
    """The reward that a recipe names, behind its boundary, under the name that the recipe gives it.

    A reward that options make keeps a name that it was given, such as a checkpoint's.

    Raises:
        UserError: as for `load_function`, or it is not a reward function.
    """
    function, options = _resolve(spec)
    name = split_name(spec)[0].rpartition(":")[2]
    if options is None:
        return checked(function, name)
    made = _made(function, options, name)
    if not callable(made):
        raise UserError(
            f"{name} is no reward function: it compares two replies",
            got=f"{type(made).__name__}, with a method compare and no __call__",
            expected="a reward of single replies",
            fix="give it as the judge of `align winrate --judge`, or give its class a method __call__ that scores",
        )
    code = getattr(made, "__code__", None)
    is_named = hasattr(made, "__name__") and (code is None or code.co_name != made.__name__)
    return checked(made, name_of(made) if is_named else name, needed_columns(spec))


def load_function(spec: str) -> Callable:
    """The reward function that a recipe names, or a judge with a method `compare`, made with its options.

    Raises:
        UserError: as for `check_function`, or as the options' values lead to, such as a missing checkpoint.
    """
    function, options = _resolve(spec)
    return function if options is None else _made(function, options, split_name(spec)[0].rpartition(":")[2])


def check_function(spec: str) -> None:
    """Raise for an invalid name, option, value or signature, without making the reward.

    Raises:
        UserError: the name has no colon, the file, module, function or option does not exist, an import fails, or the
            function without options cannot be called as a reward function.
    """
    function, options = _resolve(spec)
    if options is None:
        checked(function, split_name(spec)[0].rpartition(":")[2])


def with_options(spec: str) -> tuple[Callable, dict[str, Any] | None]:
    """The function of a name and the values of its options, without calling it; None for a name without a `?`."""
    return _resolve(spec)


def needed_columns(spec: str) -> list[str]:
    """The columns of the data set that the options of a reward name: values of parameters annotated as `Column`."""
    function, options = _resolve(spec)
    if options is None:
        return []
    values = {key: one.default for key, one in (parameters_of(function) or {}).items()} | options
    marked = [key for key, hint in _hints(function, extras=True).items() if COLUMN in get_args(hint)]
    return [values[key] for key in marked if isinstance(values.get(key), str)]


def require_columns(spec: str, columns: Sequence[str]) -> None:
    """Raise a UserError if a reward needs other columns than those of the data, as far as its name shows that."""
    function, options = _resolve(spec)
    name = split_name(spec)[0].rpartition(":")[2]
    if options is None:
        checked(function, name).require_columns(columns)
    elif missing := [column for column in needed_columns(spec) if column not in columns]:
        raise missing_columns(name, missing, columns)


def _made(function: Callable, options: Options, name: str) -> Callable:
    """The reward or judge that a function or class makes with its options."""
    file, _ = source_of(function)
    with user_code(f"{name} cannot make its reward.", file, "correct the options, or the function"):
        made = function(**options)
    if not (callable(made) or hasattr(made, "compare")):
        raise UserError(
            f"{name} makes no reward function.",
            got=f"{made!r} ({type(made).__name__})",
            expected="a function that returns the reward function",
            fix=f"return it; if {name} is the reward itself, leave out the ?",
        )
    return made


def _resolve(spec: str) -> tuple[Callable, Options | None]:
    address, query = split_name(spec)
    place, colon, name = address.rpartition(":")
    if not (colon and place and name):
        raise UserError(f"{spec!r} names no function", expected="path/to/file.py:name or package.module:name")
    module = _load_file(place) if place.endswith(".py") else _load_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        defined = hasattr(module, name)
        raise UserError(
            f"{place} has no function {name!r}",
            got=f"{name} is of type {type(function).__name__}" if defined else spec,
            expected="FILE.py:FUNCTION or MODULE:FUNCTION",
            fix=did_you_mean(name, known, "check the name after the colon"),
        )
    return function, None if query is None else _read_options(function, name, query)


def _read_options(function: Callable, name: str, query: str) -> Options:
    """Read options by the types and defaults of the function's own signature."""
    parameters = parameters_of(function)
    if parameters is None or "completions" in parameters:
        raise UserError(
            f"{name} takes no options",
            got=f"{name}?{query}",
            expected="after a ? a function that makes a reward; this is the reward itself" if parameters else None,
            fix="leave out the ? and what follows it",
        )
    _require_keywords(function, parameters, name)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = {key: one for key, one in parameters.items() if one.kind not in variable}
    hints = _hints(function)
    return read_options(
        query,
        name,
        {key: _listed(hints.get(key, Any)) for key in known},
        required=[key for key, one in known.items() if one.default is one.empty],
        others_allowed=any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()),
    )


def _require_keywords(function: Callable, parameters: Mapping[str, inspect.Parameter], name: str) -> None:
    fixed = [key for key, one in parameters.items() if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    if fixed:
        raise UserError(
            f"{name} cannot be called with options",
            got=f"{name}{inspect.signature(function)}",
            expected="parameters that can be given by name",
            fix="remove the / from its parameters",
        )


def _listed(hint: Any) -> Any:
    """The annotation of an option; a list without a type of its values holds scalars."""
    return list[Any] if hint in (list, tuple) else hint


def _hints(function: Callable, extras: bool = False) -> dict[str, Any]:
    """Type annotations of a function's parameters; none if they name types that do not exist at run time."""
    while isinstance(function, partial):
        function = function.func
    if inspect.isclass(function):
        function = function.__init__
    elif not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return get_type_hints(function, include_extras=extras)
    except (NameError, TypeError, AttributeError):
        return {}


def _load_file(place: str) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        raise UserError(f"no file {place}", expected="the Python file with the reward function")
    path = path.resolve()
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # files in its folder can be imported, as in `python FILE.py`, also by its functions
    name = f"reward file {path}".replace(".", "_")  # no other module has this name; dataclasses look it up
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[folder])  # relative imports
    assert spec is not None and spec.loader is not None  # as the name ends in .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with user_code(f"{place} cannot be imported", str(path), "correct it; `python PATH` shows where it fails"):
        spec.loader.exec_module(module)
    return module


def _load_module(place: str) -> ModuleType:
    place = MODULES.get(place.removeprefix("reward_models."), place)
    with user_code(f"{place} cannot be imported", fix=f"correct it; `python -m {place}` shows where it fails"):
        if importlib.util.find_spec(place.partition(".")[0]) is None:
            raise UserError(f"no module {place}", expected="an importable module, or a path that ends in .py")
        return importlib.import_module(place)
