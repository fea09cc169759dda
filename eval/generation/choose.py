"""Choosing among the replies to a prompt by their scores: best of n, and preference pairs."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Places of the preferred and the other reply among a prompt's replies."""

    chosen: int
    rejected: int


def best(replies: Sequence[str], scores: Sequence[float | None], ended: Sequence[bool] | None = None) -> int | None:
    """The place of the best-scored reply, the first of several; None if no reply has text and a score and ended.

    Args:
        ended: False for a reply that the length limit cut off, which is not considered; None if all count as ended.
    """
    places = _usable(replies, scores, ended)
    return max(places, key=lambda place: scores[place]) if places else None


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n sampling from the model sampled from, in nats: log n - (n - 1) / n, an upper bound."""
    return math.log(n) - (n - 1) / n


def preference_pair(
    replies: Sequence[str],
    scores: Sequence[float | None],
    against: str,
    min_margin: float,
    seed: str,
    ended: Sequence[bool] | None = None,
) -> Pair | str:
    """The best reply against another, or why there is no pair.

    Replies without text or without a score are not considered, for no stage can learn from them, nor are truncated
    replies: training would put an end of turn where the length limit cut them off.

    Args:
        against: `worst`, or `random`: any of the others, drawn with the seed.
        min_margin: a smaller difference of scores is a tie, as is none.
        ended: as in `best`.
    """
    places = _usable(replies, scores, ended)
    if len(places) < 2:
        return without_reply(ended, "fewer than two replies with text and score")
    chosen = max(places, key=lambda place: scores[place])
    others = [place for place in places if replies[place].strip() != replies[chosen].strip()]
    if not others:
        return "all replies the same"
    # Of equal scores the last, so that a tie of all is a tie of two different replies.
    rejected = (
        min(reversed(others), key=lambda place: scores[place])
        if against == "worst"
        else random.Random(seed).choice(others)
    )
    margin = scores[chosen] - scores[rejected]
    return Pair(chosen, rejected) if margin > 0 and margin >= min_margin else "ties"


def preference_pairs(
    replies: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float | None]],
    *,
    against: str = "worst",
    min_margin: float = 0.0,
    seed: int = 0,
    ended: Sequence[Sequence[bool]] | None = None,
) -> tuple[dict[int, Pair], Counter]:
    """Of the replies to many prompts: (prompt's place -> pair, why other prompts have none -> how many)."""
    pairs, without = {}, Counter()
    for place, (texts, values) in enumerate(zip(replies, scores, strict=True)):
        whole = None if ended is None else ended[place]
        found = preference_pair(texts, values, against, min_margin, f"{seed}-{place}", whole)
        if isinstance(found, Pair):
            pairs[place] = found
        else:
            without[found] += 1
    return pairs, without


def without_reply(ended: Sequence[bool] | None, otherwise: str) -> str:
    """Why a prompt has no row: its replies are truncated, all or some, or `otherwise`."""
    if ended is None or all(ended):
        return otherwise
    return f"{otherwise}, truncated ones left out" if any(ended) else "all replies truncated"


def _usable(replies: Sequence[str], scores: Sequence[float | None], ended: Sequence[bool] | None = None) -> list[int]:
    return [
        place
        for place, text in enumerate(replies)
        if text.strip() and scores[place] is not None and (ended is None or ended[place])
    ]
