"""Calls of reward functions: what they are given, and a user error for whatever they do wrong.

PPO, GRPO, reward cards, `align sample` and `align winrate` call rewards through `checked`, so that a function means the
same in all of them.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from alignment.errors import UserError, did_you_mean
from reward_models.protocol import Text
from reward_models.returned import extra, listed, metric, numbers
from reward_models.user_code import user_code

SAMPLED = ("prompts", "completions", "completion_ids")
TRAINERS = ("trainer_state", "log_extra", "log_metric")
RESERVED = (*SAMPLED, *TRAINERS)  # names of arguments, which columns of the data set cannot have
# Parameters of functions that score a single reply: verl's compute_score(data_source, solution_str, ground_truth).
TRUTHS = ("ground_truth", "answer", "solution", "target", "reference", "label")
SINGLE = {"solution_str", "ground_truth", "completion", "response", "reply", "predict_str", "prediction"}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class CheckedReward:
    """A reward function behind its boundary; the base of a sync and an async `Reward`.

    The function gets copies of texts and columns, so that it cannot change what other rewards and the trainer see. In a
    trainer the share of completions without an opinion is logged as the metric rewards/NAME/unscored.

    Args:
        name: the name in messages and logs; by default the function's own.
        columns: columns that the function needs without naming them as parameters, such as by an option.

    Raises:
        UserError: the function cannot be called with TRL's arguments.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None, columns: Sequence[str] = ()):
        self.function, self.__name__, self.columns = function, name or name_of(function), tuple(columns)
        self.file, line = source_of(function)
        self.label = f"{self.__name__!r}" + (f" ({self.file}:{line})" if self.file else "")
        self.parameters = parameters_of(function)
        if self.parameters is not None:
            require_signature(function, self.parameters, self.label, self.__name__)

    @property
    def takes_all(self) -> bool:
        """Whether the function takes columns that it does not name."""
        kinds = {one.kind for one in (self.parameters or {}).values()}
        return self.parameters is None or inspect.Parameter.VAR_KEYWORD in kinds

    @property
    def required(self) -> list[str]:
        """Names of the arguments without which the function cannot be called."""
        return [
            name
            for name, one in (self.parameters or {}).items()
            if one.kind in NAMED and one.default is inspect.Parameter.empty
        ]

    def require_columns(self, columns: Sequence[str], sampled: bool = True) -> None:
        """Raise a UserError if the function cannot be called with a data set's columns.

        Args:
            columns: names of the data set's columns.
            sampled: whether a trainer calls, with the tokens of sampled completions and its own arguments.
        """
        given = {*columns, *(RESERVED if sampled else SAMPLED[:2])}
        missing = [name for name in (*self.required, *self.columns) if name not in given]
        if missing:
            raise missing_columns(self.label, missing, columns)
        unknown = [] if self.takes_all else [name for name in columns if name not in (self.parameters or {})]
        unknown = [name for name in unknown if name not in (*RESERVED, "prompt", "completion")]
        if unknown:
            raise UserError(
                f"Reward function {self.label} does not take all columns.",
                got=_seen(columns),
                expected="a function that takes them, as TRL gives all columns by name",
                fix=f"add **columns to the parameters of {self.__name__}",
            )

    def boundary(self) -> AbstractContextManager[None]:
        return user_code(f"Reward function {self.label} failed.", self.file, "correct the function")

    def given(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Copies of the arguments; what the function logs is checked."""
        count = len(arguments["completions"])
        known = {name: value for name, value in arguments.items() if value is not None or name not in RESERVED}
        own = {name: value if name in TRAINERS else copied(value) for name, value in known.items()}
        if (log_metric := own.get("log_metric")) is not None:
            own["log_metric"] = lambda name, value: log_metric(name, metric(value, name))
        if (log_extra := own.get("log_extra")) is not None:
            own["log_extra"] = lambda column, values: log_extra(column, extra(values, count, column))
        columns = [name for name in own if name not in RESERVED]
        self.require_columns(columns, sampled="completion_ids" in own)
        return own

    def read(self, values: Sequence[Any], arguments: Mapping[str, Any]) -> list[float | None]:
        found = numbers(values, self.__name__, arguments["completions"])
        if arguments.get("log_metric") is not None and found:
            arguments["log_metric"](f"rewards/{self.__name__}/unscored", found.count(None) / len(found))
        return found


class SyncReward(CheckedReward):
    """A `Reward` of a plain function."""

    def __call__(self, **arguments: Any) -> list[float | None]:
        given, count = self.given(arguments), len(arguments["completions"])
        with self.boundary():
            answer = self.function(**given)
            if inspect.isawaitable(answer):  # such as of a lambda that calls an async function
                answer = finished(answer)
            return self.read(listed(answer, count, self.__name__), arguments)


class AsyncReward(CheckedReward):
    """A reward of an async function; TRL and PPO let several wait for their answers together."""

    async def __call__(self, **arguments: Any) -> list[float | None]:
        given, count = self.given(arguments), len(arguments["completions"])
        with self.boundary():
            return self.read(listed(await self.function(**given), count, self.__name__), arguments)


Checked = SyncReward | AsyncReward


def checked(function: Callable[..., Any], name: str | None = None, columns: Sequence[str] = ()) -> Checked:
    """A reward function behind its boundary, see `CheckedReward`."""
    if isinstance(function, SyncReward | AsyncReward):
        return function
    return (AsyncReward if is_async(function) else SyncReward)(function, name, columns)


def scores_of(
    reward: Callable[..., Any],
    prompts: Sequence[Text],
    completions: Sequence[Text],
    columns: Mapping[str, Any] | None = None,
) -> list[float | None]:
    """A reward's scores outside a trainer, also of an async function; columns named like an argument are left out."""
    own = {name: values for name, values in (columns or {}).items() if name not in RESERVED}
    answer = checked(reward)(prompts=prompts, completions=completions, **own)
    return answer if isinstance(answer, list) else finished(answer)


def finished(answer: Awaitable[Any]) -> Any:
    """The result of an awaitable, also if an event loop runs in this thread, as in a notebook."""

    async def wait() -> Any:
        return await answer

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()


def unwrapped(reward: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind a boundary."""
    return reward.function if isinstance(reward, CheckedReward) else reward


def is_async(function: Callable[..., Any]) -> bool:
    while isinstance(function, partial):
        function = function.func
    # A callable object is async if its class's __call__ is.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with their place in the list added where a name occurs several times: rewards are kept by name."""
    found = list(names)
    while len(set(found)) < len(found):
        found = [f"{name}_{at}" if found.count(name) > 1 else name for at, name in enumerate(found)]
    return found


def source_of(function: Callable[..., Any]) -> tuple[str | None, int]:
    """(file, line) of a function's definition; (None, 0) if it has no source in Python."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else (None, 0)


def missing_columns(label: str, missing: Sequence[str], columns: Sequence[str]) -> UserError:
    """The error for a reward that needs other columns than those of the rows."""
    sampled = ", ".join(name for name in missing if name in RESERVED)
    near = _nested(missing[0], columns) or did_you_mean(
        missing[0], [*columns, *SAMPLED[:2]], "name a column of the data; the key `columns` renames columns"
    )
    return UserError(
        f"Reward function {label} needs a column that the rows do not have: {', '.join(missing)}.",
        got=f"prompts, completions; {_seen(columns)}",
        fix=f"{sampled}: only PPO and GRPO have it" if sampled else near,
    )


def _nested(name: str, columns: Sequence[str]) -> str | None:
    """The fix for a dotted name, which `columns` can read from objects; None for other names."""
    if not any(name.startswith(f"{column}.") for column in columns):
        return None
    new = next(new for new in ("answer", name.rpartition(".")[2], name.replace(".", "_")) if new not in columns)
    return f"columns: {{{name}: {new}}}, and name {new!r} as the reward's column"


def _seen(columns: Sequence[str]) -> str:
    return "columns: " + (", ".join(sorted(set(columns) - {"prompt", "completion"})) or "no other columns")


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a function; None if they are unknown, as for some functions in C."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def require_signature(
    function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], label: str, name: str
) -> None:
    """Raise a UserError for a function that cannot be called as TRL calls it, by keywords, whatever the columns."""
    signature = f"{name}({', '.join(map(str, parameters.values()))})"
    if inspect.isclass(function):
        raise UserError(f"{label} is a class, not a reward function.", got=signature, fix=f"write {name}? to call it")
    kinds = {one.kind: key for key, one in parameters.items()}
    if not {*SAMPLED, "kwargs"} & parameters.keys() and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise UserError(
            f"{label} is not a reward function.",
            got=signature,
            expected="a function of completions, prompts and **columns",
            fix=_written_as_reward(name, parameters),
        )
    required = [
        key
        for key, one in parameters.items()
        if one.kind is inspect.Parameter.POSITIONAL_ONLY and one.default is inspect.Parameter.empty
    ]
    lacking = [key for key in RESERVED if key not in parameters]
    if required or (lacking and inspect.Parameter.VAR_KEYWORD not in kinds):
        raise UserError(
            f"Reward function {label} cannot be called with the arguments of a reward function.",
            got=signature,
            expected="parameters that can be given by name, and **columns for the others: trainers give "
            f"{', '.join(RESERVED)} and every column of the data set",
            fix=f"remove the / from the parameters of {name}" if required else f"add **columns to {name}'s parameters",
        )


def _written_as_reward(name: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """The fix for a function of other arguments: it makes the reward, or scores a single reply, as in verl."""
    if not parameters.keys() & SINGLE:
        return f"if it makes the reward, add its options: {name}?OPTION=VALUE"
    truths = [key for key in parameters if key in TRUTHS] or ["answer"]
    return (
        f"write a function that calls {name} for each reply, which is completions[n][-1]['content'] (or completions[n] "
        f"after a prompt that is a text): def reward(completions, {truths[0]}, **columns): return [...]"
    )


def copied(value: Any) -> Any:
    """A copy of nested lists and dictionaries; other values, such as texts, are shared."""
    if isinstance(value, list):
        return [copied(one) for one in value]
    return {key: copied(one) for key, one in value.items()} if isinstance(value, dict) else value
