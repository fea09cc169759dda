"""Checks of the options of an eval run, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alignment.errors import UserError, raise_all

SEEDS = 2**32  # numpy's
TOO_LONG = ("skip", "refuse")

Rule = tuple[str, Callable[[Any], bool]]
RULES: dict[str, Rule] = {
    "batch_size": ("a whole number, 1 or more", lambda value: _whole(value) and value >= 1),
    "limit": ("a whole number, 1 or more", lambda value: value is None or (_whole(value) and value >= 1)),
    "num_fewshot": ("a whole number, 0 or more", lambda value: value is None or (_whole(value) and value >= 0)),
    "max_gen_toks": ("a whole number, 1 or more", lambda value: value is None or (_whole(value) and value >= 1)),
    "seed": ("a whole number from 0 to 2**32 - 1", lambda value: _whole(value) and 0 <= value < SEEDS),
    "suite_args": ("an object of options", lambda value: value is None or isinstance(value, dict)),
    "too_long": (" or ".join(TOO_LONG), lambda value: value in TOO_LONG),
}


def require_options(**options: Any) -> None:
    """Raise for options (keyword arguments of `evaluate`, and `max_gen_toks`) that are out of range, all together."""
    wrong = [name for name, value in options.items() if name in RULES and not RULES[name][1](value)]
    raise_all([UserError(f"{name} is out of range", got=options[name], expected=RULES[name][0]) for name in wrong])


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
