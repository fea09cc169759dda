"""The judge's card of a judge stage, from the pairs that it has judged, also those that are left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignment.errors import UserError
from alignment.stages.made_rows.made_parts import Part
from alignment.stages.made_rows.versus import answered, versus_gaps
from reward_models.calls import scores_of
from reward_models.card.gold_scores import GOLD_COLUMNS, as_score
from reward_models.card.judge_card import JudgedPairs, beyond_limits, judge_card
from reward_models.card.policy_gain import inherited
from reward_models.functions import load_reward
from reward_models.protocol import reply_text

FAMILY = "family"
TRIED = 4  # rows on which a gold function is tried


def card_of(
    parts: Iterable[Part], gold_func: str | None, versus: tuple[str, str] | None = None, equal: int = 0
) -> dict[str, Any]:
    """The card of all judged pairs, of which each counts once for each principle.

    Args:
        gold_func: scores replies as the truth does; None: the columns gold_chosen and gold_rejected.
        versus: the two checkpoints that wrote the replies of every pair, policy and baseline, see `compared_models`.
        equal: number of pairs of equal replies, which no judge was asked about.
    """
    rows = [row for part in parts for row in (*part.rows, *part.left_out)]
    judged = [(row, name, *answers) for row in rows for name, answers in answers_of(row)]
    chosen = [row for row, *_ in judged]
    pairs = JudgedPairs(
        np.array([a_first for *_, a_first, _ in judged], float),
        np.array([b_first for *_, b_first in judged], float),
        np.array([reply_text(row["chosen"]) for row in chosen], dtype=object),
        np.array([reply_text(row["rejected"]) for row in chosen], dtype=object),
        gold_of([(row, name) for row, name, *_ in judged], gold_func),
        np.array([name for _, name, *_ in judged], dtype=object),
        families_of(chosen),
        np.unique([repr(row["prompt"]) for row in chosen], return_inverse=True)[1],
    )
    card = judge_card(pairs)
    if any(one.get("rated") for row in rows for one in row["judged"]):  # each reply was seen by itself
        unknown = dict.fromkeys(("value", "low", "high")) | {"n": 0}
        card |= {"consistency": unknown, "position_bias": unknown, "position_effect": None}
    if versus is not None and pairs.gold_gaps is not None:
        places = [(place, name) for place, row in enumerate(rows) for name, _ in answers_of(row)]
        gaps = versus_gaps(rows, places, pairs.gold_gaps, versus[0])
        named = {"policy": versus[0], "baseline": versus[1]}
        card["inherited"] = named | inherited(*gaps, [row["prompt"] for row in rows], equal)
    return card


def answers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield (principle, mean answers with the chosen reply shown first and second) of the judges that gave both."""
    for name in dict.fromkeys(one["principle"] for one in row["judged"]):
        some = [
            as_preference(one["a_first"], one["b_first"]) if one.get("rated") else (one["a_first"], one["b_first"])
            for one in answered(row)
            if one["principle"] == name
        ]
        if some:
            first, second = np.mean(some, axis=0)
            yield name, (float(first), float(second))


def as_preference(a: float, b: float) -> tuple[float, float]:
    """Two ratings as the answers of a judge that sees both replies, in either order."""
    first = 0.5 + ((a > b) - (a < b)) / 2
    return first, 1 - first


def gold_of(judged: Sequence[tuple[Mapping[str, Any], str]], gold_func: str | None) -> np.ndarray | None:
    """Gold score of the chosen reply minus that of the rejected one; None without gold.

    Args:
        judged: rows, each with a principle.
    """
    if not judged:
        return None
    if gold_func is None:
        sides = [[as_score(row.get(name)) for row, _ in judged] for name in GOLD_COLUMNS]
        if all(value is None for value in sides[0]):
            return None
    else:
        names = {name for row, _ in judged for name in row} - {"prompt", "chosen", "rejected", "judged"}
        columns = {name: [row.get(name) for row, _ in judged] for name in names}
        columns["principle"] = [principle for _, principle in judged]
        reward, prompts = load_reward(gold_func), [row["prompt"] for row, _ in judged]
        sides = [
            scores_of(reward, prompts, [row[side] for row, _ in judged], columns) for side in ("chosen", "rejected")
        ]
    known = [[np.nan if value is None else value for value in values] for values in sides]
    return np.array(known[0], float) - np.array(known[1], float)


def require_gold(
    rows: Sequence[Mapping[str, Any]], principles: Sequence[str], gold_func: str | None, min_agreement: float | None
) -> None:
    """Raise before any judge is asked if the card would find no gold: the function is tried on the first rows.

    Raises:
        UserError: the function fails, or `min_agreement` has nothing to be compared with.
    """
    if gold_func is not None:
        gold_of([(row, name) for row in rows[:TRIED] for name in principles], gold_func)
    elif min_agreement is not None and not any(_has_gold(row) for row in rows):
        raise UserError(
            "min_agreement needs the truth, and the rows have none",
            got=f"columns {', '.join(rows[0]) if rows else 'none'}",
            expected=f"gold_func, or numbers in the columns {' and '.join(GOLD_COLUMNS)}",
            fix="remove min_agreement, or name a gold_func",
        )


def _has_gold(row: Mapping[str, Any]) -> bool:
    return all(as_score(row.get(name)) is not None for name in GOLD_COLUMNS)


def families_of(rows: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """The families of tinyworld's rows; None for rows without."""
    families = [row.get(FAMILY) for row in rows]
    return np.array(families, dtype=object) if families and all(isinstance(one, str) for one in families) else None


def require_within_limits(
    card: Mapping[str, Any],
    max_position_bias: float | None,
    max_length_bias: float | None,
    min_agreement: float | None,
) -> None:
    """Raise a UserError if a judge exceeds the limits of the recipe."""
    found = beyond_limits(card, max_position_bias, max_length_bias, min_agreement)
    if found:
        raise UserError(
            "the judge is beyond the limits of the recipe",
            got="; ".join(found),
            fix="use another judge or clearer principles, or change the limits (max_position_bias, ...); "
            "the answers of models and endpoints are kept",
        )
