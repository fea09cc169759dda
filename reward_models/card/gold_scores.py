"""Gold scores as files hold them, and what the pairs of a card must have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.errors import UserError
from reward_models.returned import shown

if TYPE_CHECKING:
    from datasets import Dataset

GOLD_COLUMNS = ["gold_chosen", "gold_rejected"]
NOT_SUBSETS = ("prompt", "chosen", "rejected")  # conversations


def as_score(value: Any) -> float | None:
    """A finite number, also written as text, as in a CSV file; None for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def gold_gaps(pairs: Dataset) -> np.ndarray | None:
    """Gold reward of chosen minus gold reward of rejected, per pair; None for pairs without gold rewards.

    Raises:
        UserError: some pairs have no number in one of the columns.
    """
    if not set(GOLD_COLUMNS) <= set(pairs.column_names):
        return None
    columns = [list(pairs[name]) for name in GOLD_COLUMNS]
    if all(value is None for values in columns for value in values):
        return None
    scores = [[as_score(value) for value in values] for values in columns]
    for name, values, found in zip(GOLD_COLUMNS, columns, scores, strict=True):
        if wrong := [place for place, score in enumerate(found) if score is None]:
            raise UserError(
                f"pairs have no number as {name}, the gold reward of a reward card",
                got=f"{len(wrong)} of {len(found)} pairs, the first {shown(values[wrong[0]])}",
                expected="a finite number in every pair, or in none",
                fix=f"fill in the numbers, or name the columns otherwise: columns: {{{name}: data_{name}}}",
            )
    return np.array(scores[0], dtype=float) - np.array(scores[1], dtype=float)


def require_card_columns(pairs: Dataset, subset: str | None, option: str) -> None:
    """Raise a UserError if a card of the pairs would fail on their columns.

    Args:
        subset: the column of the subsets.
        option: the key or argument that names it.
    """
    if subset and (subset not in pairs.column_names or subset in NOT_SUBSETS):
        others = [name for name in pairs.column_names if name not in NOT_SUBSETS]
        missing = subset not in pairs.column_names
        raise UserError(
            f"no column {subset}" if missing else f"{subset} has conversations, not the subsets of pairs",
            got=f"columns {', '.join(others)}" if others else None,
            fix=f"correct {option}, or leave it out",
        )
    gold_gaps(pairs)
