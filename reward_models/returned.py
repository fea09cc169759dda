"""What a reward function may return: a finite number, or None for no opinion, for each completion."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from itertools import islice
from typing import Any

import numpy as np

from alignment.errors import UserError

LARGEST = float(np.finfo(np.float32).max)  # trainers hold rewards as 32-bit numbers
LONGEST_SHOWN = 80  # characters of a value in a message
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


def metric(value: Any, name: str) -> float:
    """The number that a function logs with `log_metric`.

    Raises:
        UserError: the value is not a number.
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"log_metric: {name} is not a number.", got=shown(value)) from error


def extra(values: Any, count: int, column: str) -> list[Any]:
    """The values that a function records with `log_extra`, as JSON can hold them.

    Raises:
        UserError: there is not one value per completion, or a value that JSON cannot hold.
    """
    given = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(given, str | bytes | Mapping | Set) or not isinstance(given, Iterable):
        got = f"{shown(values)} ({type(values).__name__})"
        raise UserError(f"log_extra: {column} is not a list.", got=got, expected=f"{count} values")
    found = [value.tolist() if hasattr(value, "tolist") else value for value in given]
    if len(found) != count:
        raise UserError(f"log_extra: {column} has the wrong length.", got=len(found), expected=count)
    try:
        json.dumps(found)
    except (TypeError, ValueError) as error:
        expected = "numbers, texts, and lists and dictionaries of them"
        raise UserError(f"log_extra: {column} cannot be recorded.", got=str(error), expected=expected) from error
    return found
