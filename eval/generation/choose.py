"""Choosing among the replies to a prompt by score: best of n, and preference pairs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Positions of the preferred and the other reply among a prompt's replies."""

    chosen: int
    rejected: int


def best(replies: Sequence[str], scores: Sequence[float | None], ended: Sequence[bool] | None = None) -> int | None:
    """The position of the best-scored reply, the first of equals; None if no reply can be chosen.

    A reply can be chosen if it has text and a score and was not truncated.

    Args:
        ended: False for a reply that the length limit cut off; None if truncated replies can be chosen too.
    """
    usable = _usable(replies, scores, ended)
    return max(usable, key=usable.__getitem__) if usable else None


def preference_pair(
    replies: Sequence[str],
    scores: Sequence[float | None],
    against: str,
    min_margin: float,
    seed: str,
    ended: Sequence[bool] | None = None,
) -> Pair | str:
    """The best reply and another, or the reason why there is no pair.

    Replies without text or score are not considered, as no stage can learn from them. Neither are truncated replies:
    training would put an end of turn at the length limit.

    Args:
        against: `worst`, or `random` for any of the others, drawn with the seed.
        min_margin: a smaller difference of scores is a tie, and so is a difference of 0.
        ended: as for `best`.
    """
    usable = _usable(replies, scores, ended)
    if len(usable) < 2:
        return without_reply(ended, "fewer than two replies with text and score")
    chosen = max(usable, key=usable.__getitem__)
    others = [place for place in usable if replies[place].strip() != replies[chosen].strip()]
    if not others:
        return "all replies the same"
    # The last of equal scores, so that a tie of all replies is a tie of two different replies.
    rejected = (
        min(reversed(others), key=usable.__getitem__) if against == "worst" else random.Random(seed).choice(others)
    )
    margin = usable[chosen] - usable[rejected]
    return Pair(chosen, rejected) if margin > 0 and margin >= min_margin else "ties"


def preference_pairs(
    replies: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float | None]],
    *,
    against: str = "worst",
    min_margin: float = 0.0,
    seed: int = 0,
    ended: Sequence[Sequence[bool]] | None = None,
    start: int = 0,
) -> tuple[dict[int, Pair], Counter[str]]:
    """(position of the prompt -> pair, reason -> number of prompts without a pair) for the replies to many prompts.

    Args:
        against, min_margin, seed, ended: as for `preference_pair`.
        start: the position of the first prompt, if these are part of a longer list.
    """
    pairs: dict[int, Pair] = {}
    without: Counter[str] = Counter()
    for place, (texts, values) in enumerate(zip(replies, scores, strict=True)):
        whole = None if ended is None else ended[place]
        found = preference_pair(texts, values, against, min_margin, f"{seed}-{start + place}", whole)
        if isinstance(found, Pair):
            pairs[place] = found
        else:
            without[found] += 1
    return pairs, without


def without_reply(ended: Sequence[bool] | None, otherwise: str) -> str:
    """The reason why a prompt has no row: all or some replies are truncated, or `otherwise`."""
    if ended is None or all(ended):
        return otherwise
    return f"{otherwise}, truncated ones left out" if any(ended) else "all replies truncated"


def _usable(
    replies: Sequence[str], scores: Sequence[float | None], ended: Sequence[bool] | None = None
) -> dict[int, float]:
    """Position -> score of the replies that can be chosen."""
    return {
        place: score
        for place, (text, score) in enumerate(zip(replies, scores, strict=True))
        if text.strip() and score is not None and (ended is None or ended[place])
    }
