"""Columns of a row that are about a reply: those of other replies than the row's own would be read as its own."""

from collections.abc import Mapping
from typing import Any

from alignment.data.reading.row_formats import DIALOGUES

REPLY = ("completion", "response", "output")  # `answer`, `solution` and `target` are what is true, for rewards
MARGIN = ("margin", "score_margin")  # of the order that a pair had; TRL's RewardTrainer uses `margin` in its loss
SIDES = ("chosen", "rejected")
MODELS = ("model_a", "model_b")  # the checkpoints that wrote reply_a and reply_b, read as chosen and rejected
PAIR = ("prompt", *SIDES)


def without_replies(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what is about replies: conversations, replies, labels, pairs and their scores."""
    dropped = (*DIALOGUES, *REPLY, *MARGIN, "label", "score", "sample", "tokens", "ended")
    return {name: value for name, value in row.items() if name not in dropped and side_of(name) is None}


def side_of(name: str) -> str | None:
    """The side of a pair that a column is about: `chosen` of `gold_chosen` and `chosen_score`."""
    if name in MODELS:
        return SIDES[MODELS.index(name)]
    return next((side for side in SIDES if name.startswith(side) or name.endswith(side)), None)


def other_side(name: str) -> str:
    """The same column about the other side; the name itself for a column about neither."""
    if name in MODELS:
        return MODELS[name == MODELS[0]]
    side = side_of(name)
    return name if side is None else name.replace(side, SIDES[side == SIDES[0]])


def reversed_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with its replies exchanged, and with them its columns about either."""
    return {other_side(name): value for name, value in row.items()}


def of_pair_alone(row: Mapping[str, Any]) -> dict[str, Any]:
    """A pair without what is about one reply of it, or about its order."""
    dropped = (*DIALOGUES, *REPLY, *MARGIN, "label")
    return {name: value for name, value in row.items() if name not in dropped}


def beyond_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's columns besides the pair, for judges that read them."""
    return {name: value for name, value in row.items() if name not in PAIR}
