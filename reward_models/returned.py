"""What a reward function may return: a finite number, or None for no opinion, for each completion."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from itertools import islice
from typing import Any

import numpy as np
import pyarrow

from alignment.errors import UserError

LARGEST = float(np.finfo(np.float32).max)  # trainers hold rewards as 32-bit numbers
LONGEST_SHOWN = 80  # characters of a value in a message
# Names that PPO and TRL's trainers log themselves; a reward's value would replace theirs, or be added to it.
TRAINERS_METRICS = frozenset((
    "loss", "grad_norm", "learning_rate", "epoch", "step", "eval_loss", "train_loss", "policy_loss", "aux_loss",
    "reward", "reward_std", "reward_length_corr", "frac_reward_zero_std", "kl", "kl_coef", "approx_kl", "entropy",
    "entropy_coef", "num_tokens", "step_time", "policy_learns", "cispo_clip_ratio",
))  # fmt: skip
TRAINERS_GROUPS = (
    *("rewards/", "completions/", "clip_ratio/", "loss/", "ratio/", "value/", "advantages/", "kl/", "time/"),
    *("sampling/", "tools/", "vespo/"),
)
TRAINERS_COLUMNS = ("step", "prompt", "completion", "advantage")
EXPECTED = "a number for each completion, or None for a completion that the function cannot score"


def listed(answer: Any, count: int, name: str) -> list[Any]:
    """The values that a function returned for `count` completions, as they are.

    Iterating may run the function's code, if it is a generator.

    Raises:
        UserError: the answer is not a sequence, or has another number of values.
    """
    if hasattr(answer, "detach"):  # a tensor of torch, perhaps with gradients or on another device
        answer = answer.detach().cpu()
    shape = getattr(answer, "shape", None)
    unordered = isinstance(answer, str | bytes | Mapping | Set)
    if unordered or not isinstance(answer, Iterable) or (isinstance(shape, Sequence) and len(shape) != 1):
        what = "shape " + str(tuple(shape)) if isinstance(shape, Sequence) else shown(answer)
        got = "None" if answer is None else f"{what} ({type(answer).__name__})"
        fix = "return the list" if answer is None else "return a list with a number per completion"
        raise UserError(f"Reward function {name!r} returned no list of rewards.", got=got, expected=EXPECTED, fix=fix)
    values = list(islice(answer, count + 1))
    if len(values) != count:
        more = f"more than {count}" if len(values) > count else str(len(values))
        got = str(len(answer)) if isinstance(answer, Sized) else more
        raise UserError(
            f"Reward function {name!r} returned the wrong number of rewards.",
            got=got,
            expected=f"{count}, one per completion",
        )
    return values


def shown(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, int) and value.bit_length() > LONGEST_SHOWN:
        return f"a whole number of {value.bit_length()} bits"  # Python refuses to write very large numbers
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def numbers(values: Sequence[Any], name: str, completions: Sequence[Any]) -> list[float | None]:
    """The values as numbers.

    Raises:
        UserError: a value is neither None nor a finite number, with the completion that it was returned for.
    """
    return [_number(value, name, completion) for value, completion in zip(values, completions, strict=True)]


def _number(value: Any, name: str, completion: Any) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, str | bytes | complex) or getattr(value, "shape", ()) != ():
            raise TypeError
        number = float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError) as error:
        problem = f"Reward function {name!r} returned a reward that is not a number."
        raise UserError(problem, got=_got(value, completion), expected=EXPECTED) from error
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        raise UserError(
            f"Reward function {name!r} returned a reward that is not finite.",
            got=_got(value, completion),
            expected="a finite number, or None for a completion that the function cannot score",
        )
    return number


def _got(value: Any, completion: Any) -> str:
    return f"{shown(value)} ({type(value).__name__}) for {shown(completion)}"


def metric(value: Any, name: Any) -> float:
    """The number that a function logs with `log_metric`.

    Raises:
        UserError: the value is not a number, or the name is not a text or is that of a metric of the trainers.
    """
    _require_name("log_metric", name)
    if name in TRAINERS_METRICS or name.startswith(TRAINERS_GROUPS):
        raise UserError(
            f"log_metric: {name} is a metric of the trainer, which would be replaced.",
            expected="a name of your own",
            fix=f"log_metric('own/{name}', value)",
        )
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"log_metric: {name} is not a number.", got=shown(value)) from error


def _require_name(function: str, name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{function}: a name is not a text.", got=f"{shown(name)} ({type(name).__name__})")


def extra(values: Any, count: int, column: Any) -> list[Any]:
    """The values that a function records with `log_extra`, as JSON and Parquet can hold them.

    Raises:
        UserError: there is not one value per completion, a value that cannot be recorded, values of several types, or
            the column is not a text or is a column of the trainers.
    """
    _require_name("log_extra", column)
    if column in TRAINERS_COLUMNS:
        fix = f"log_extra('own_{column}', values)"
        raise UserError(f"log_extra: {column} is a column of the trainer, which would be replaced.", fix=fix)
    given = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(given, str | bytes | Mapping | Set) or not isinstance(given, Iterable):
        got = f"{shown(values)} ({type(values).__name__})"
        raise UserError(f"log_extra: {column} is not a list.", got=got, expected=f"{count} values")
    found = [value.tolist() if hasattr(value, "tolist") else value for value in given]
    if len(found) != count:
        raise UserError(f"log_extra: {column} has the wrong length.", got=len(found), expected=count)
    try:
        json.dumps(found)
        pyarrow.array(found)  # TRL writes them as a column of a Parquet file
    except (TypeError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        expected = "numbers, texts, and lists and dictionaries of them, of one type in the column"
        raise UserError(f"log_extra: {column} cannot be recorded.", got=str(error), expected=expected) from error
    return found
