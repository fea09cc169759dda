"""Values of a row's columns as text, and the reasons for which a row is dropped.

Numbers are read as their text, a list of a single text as that text. Other values that are not text make a row
unusable: `true` might be meant as "True", "yes" or "1", and an object as many things.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

NUMBERS_READ = "rows with numbers read as text"
EXACT = 2**53  # up to which every whole number is a float
QUOTED_VALUE = 40  # characters shown of a value that is not understood


class Unusable(Exception):
    """Raised for a row that is dropped.

    Args:
        reason: counted and reported; the same for all rows of a kind.
        value: the value that was not understood, if naming it helps.
    """

    def __init__(self, reason: str, value: Any = None):
        super().__init__(reason)
        self.value = None if value is None else repr(value)[:QUOTED_VALUE]


class Row(dict[str, Any]):
    """A row's values by column, and what its conversion changed.

    Attributes:
        changed: descriptions of what was changed, which are counted and reported.
    """

    def __init__(self, values: Mapping[str, Any], changed: Iterable[str] = ()):
        super().__init__(values)
        self.changed = set(changed)

    def with_values(self, **values: Any) -> Row:
        """Return the row with other values in some columns."""
        return Row({**self, **values}, self.changed)


def is_missing(value: Any) -> bool:
    """Return whether a value is null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_blank(value: Any) -> bool:
    """Return whether a value says nothing: null, NaN, blank text, or an empty list or object."""
    return is_missing(value) or (isinstance(value, str) and not value.strip()) or value == [] or value == {}


def text_of(row: Row, column: str) -> str:
    """Return a column's value as text, which must not be blank."""
    return as_text(row, row.get(column), column)


def optional_text(row: Row, column: str) -> str | None:
    """Return a column's value as text, or None if the column is absent or blank."""
    value = row.get(column)
    return None if is_blank(value) else as_text(row, value, column)


def as_text(row: Row, value: Any, name: str) -> str:
    """Return a value as text, which must not be blank.

    Args:
        name: what the value is, for the reason to drop the row.
    """
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list):
        value = value[0]
    if is_missing(value):
        raise Unusable(f"{name} is missing")
    if is_blank(value):
        raise Unusable(f"{name} is empty")
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise Unusable("a number is not finite")
        row.changed.add(NUMBERS_READ)
        return number_text(value)
    raise Unusable(f"{name} is {_kind_of(value)}, not text")


def number_text(value: int | float) -> str:
    """Return a number as text, 7.0 as 7: among fractions, readers of files make 7 of a column to 7.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < EXACT else str(value)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, Mapping) else f"a value of type {type(value).__name__}"


def parsed(text: str) -> Any:
    """Return the list or object that a text holds as JSON, or None."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
