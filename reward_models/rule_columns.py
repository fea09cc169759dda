"""The values of columns that rules read: true answers and tests, as data sets hold them."""

import json
from math import isnan
from typing import Any

from alignment.errors import UserError
from reward_models.returned import shown

# Keys under which data sets keep the answer within an object (verl: reward_model.ground_truth).
ANSWER_KEYS = ("ground_truth", "answer", "final_answer", "solution", "target", "label", "value")


def is_blank(value: object) -> bool:
    """Whether a row has no value: null, NaN or an empty text."""
    return value is None or (isinstance(value, float) and isnan(value)) or not str(value).strip()


def true_answers(value: object, column: str) -> list[str]:
    """The alternatives that a column gives as the true answer; none for a row without one.

    Args:
        value: the answer, or a list of alternatives, also as JSON text. A JSON text such as [1, 2] is one answer: it
            may be an interval.

    Raises:
        UserError: the value is an object, or a list of lists of texts.
    """
    alternatives: list[str] = []
    for one in value if isinstance(value, list | tuple) else [value]:
        while isinstance(one, list | tuple) and len(one) == 1:
            one = one[0]
        if isinstance(one, dict):
            raise holds_objects(one, column)
        if isinstance(one, list | tuple) and not all(isinstance(part, int | float) for part in _leaves(one)):
            raise UserError(
                f"answer_match: a row's column {column!r} is a list of lists.",
                got=shown(value),
                expected="the true answer, or a list of alternatives",
                fix="write the alternatives as one list",
            )
        if not is_blank(one):
            alternatives += [str(one), *(_in_json(one, column) if isinstance(one, str) else [])]
    return alternatives


def holds_objects(value: dict[str, Any], column: str) -> UserError:
    """The error for a column of objects."""
    key = next((key for key in ANSWER_KEYS if key in value), next(iter(value), "KEY"))
    name = "answer" if column != "answer" else "true_answer"
    return UserError(
        f"answer_match: the column {column!r} holds objects, not answers.",
        got=shown(value),
        expected="the true answer, or a list of alternatives",
        fix=f"columns: {{{column}.{key}: {name}}}, and rules:answer_match?column={name}",
    )


def _leaves(value: list[Any] | tuple[Any, ...]) -> list[Any]:
    return [leaf for one in value for leaf in (_leaves(one) if isinstance(one, list | tuple) else [one])]


def _in_json(text: str, column: str) -> list[str]:
    """The alternatives in the JSON text of a text or list; none in other texts and in an interval such as [1, 2]."""
    if not text.strip().startswith(("[", "{", '"')):
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(value, dict):
        if value.keys() & set(ANSWER_KEYS):
            raise holds_objects(value, column)
        return []
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        raise holds_objects(value, column)
    parts = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not all(isinstance(part, str) for part in parts):
        return []
    return [str(part) for part in parts if not is_blank(part)]
