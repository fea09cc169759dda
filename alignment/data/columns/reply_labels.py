"""Labels of replies: whether a reply is good, from booleans, numbers and words.

A column is read as a whole: 1 is `true` among 0 and 1, but the worst of five stars among 1 to 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from alignment.data.columns.cell_values import Unusable, is_blank

TRUE = ("true", "yes", "good", "desirable", "chosen", "accepted", "preferred", "positive", "wanted")
FALSE = ("false", "no", "bad", "undesirable", "rejected", "dispreferred", "negative", "unwanted")
WORDS = {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}
NUMBERS = ({0.0, 1.0}, {-1.0, 1.0})  # the lower means false
MOST_VALUES = 1000  # a column of more distinct values holds no labels


class Labels:
    """The reading of a column of labels.

    Args:
        values: all values of the column.
    """

    def __init__(self, values: Iterable[Any]):
        found: set[float | str] = set()
        for value in values:
            if not is_blank(value) and len(found) < MOST_VALUES:
                found.add(_known(value))
        numbers = {value for value in found if isinstance(value, float)}
        self.low = next((min(pair) for pair in NUMBERS if numbers <= pair), None)
        self.judge = bool(found) and all(self._meaning(value) is not None for value in found)
        """Whether every label is true or false."""

    def read(self, value: Any) -> bool:
        """Return whether a label means a good reply; raise if it means neither."""
        if is_blank(value):
            raise Unusable("label is missing")
        meaning = self._meaning(_known(value))
        if meaning is None:
            raise Unusable("label is neither true nor false", value)
        return meaning

    def _meaning(self, value: float | str) -> bool | None:
        if isinstance(value, str):
            return WORDS.get(value)
        return None if self.low is None else value > self.low


def _known(value: Any) -> float | str:
    """Return a label as a number if it is a number, otherwise as a word in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float | str):
        return repr(value)
    try:
        return float(value)
    except (ValueError, OverflowError):
        return str(value).strip().lower()
