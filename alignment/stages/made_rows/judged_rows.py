"""Preference pairs from judges' opinions: which reply is chosen, and which pairs are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from alignment.keyed_seeds import keyed_seed
from alignment.stages.made_rows.own_columns import PAIR, of_pair_alone, reversed_pair
from reward_models.judges.panel import PairOpinion, RatingOpinion


@dataclass(frozen=True)
class Labels:
    """How opinions become labels; the attributes are keys of the judge's recipe."""

    labels: str
    min_confidence: float
    require_agreement: bool
    seed: int


@dataclass(frozen=True)
class Opinion:
    """An opinion on a pair by one principle.

    Attributes:
        preference: the probability that the first reply is better; None for no opinion.
        agree: whether the answers behind it agree.
        reason: why there is no opinion.
        answers: judge -> its answers: the probability that the reply shown first is better, with the first reply
            shown first and with it shown second; or the ratings of the first and the second reply.
        rated: whether the answers are ratings.
    """

    preference: float | None
    agree: bool
    reason: str
    answers: Mapping[str, tuple[float | None, float | None]]
    rated: bool = False


def of_pair(opinion: PairOpinion) -> Opinion:
    """The opinion of judges that saw both replies, in either order."""
    answers = {one.judge: (one.a_first, one.b_first) for one in opinion.judges}
    return Opinion(opinion.preference, opinion.agree, opinion.reason, answers)


def of_ratings(a: RatingOpinion, b: RatingOpinion) -> Opinion:
    """The opinion of judges that rated each reply by itself: the higher rating of a judge is better."""
    answers = {name: (a.judges.get(name), b.judges.get(name)) for name in a.judges}
    signs = [_sign(one, other) for one, other in answers.values() if one is not None and other is not None]
    if not signs:  # each judge's ratings have a scale of their own
        return Opinion(None, False, a.reason or b.reason, answers, rated=True)
    return Opinion(0.5 + sum(signs) / len(signs) / 2, len(set(signs)) == 1, "", answers, rated=True)


def _sign(a: float, b: float) -> int:
    return (a > b) - (a < b)


def judged_row(row: Mapping[str, Any], opinions: Mapping[str, Opinion], labels: Labels) -> tuple[dict[str, Any], str]:
    """The pair as the judges see it, and the reason why it is left out, "" if it is not.

    Args:
        row: {prompt, chosen, rejected, ...}; its order means nothing, and its columns about either reply follow it.
        opinions: principle -> opinion on `chosen` against `rejected`.

    Returns:
        The row with `preference`, the probability of its chosen reply, and `judged`, a list of {principle, judge,
        preference, a_first, b_first}: each judge's answers, turned so that they are about the chosen reply. For ratings
        a_first is that of the chosen reply, and b_first that of the rejected one.
    """
    known = [one.preference for one in opinions.values() if one.preference is not None]
    preference = sum(known) / len(known) if known else None
    flipped = preference is not None and preference < _threshold(row, labels)
    judged = [entry for name, one in opinions.items() for entry in _entries(name, one, flipped)]
    pair = of_pair_alone(row)
    made = reversed_pair(pair) if flipped else pair
    made |= {"preference": 1 - preference if flipped and preference is not None else preference, "judged": judged}
    return made, _why_left_out(preference, list(opinions.values()), labels)


def _why_left_out(preference: float | None, opinions: Sequence[Opinion], labels: Labels) -> str:
    """The reason why a pair is no row; "" if it is one."""
    if preference is None:
        return f"no opinion: {opinions[0].reason or 'no answer'}"
    if preference == 0.5:
        return "tie"
    if max(preference, 1 - preference) < labels.min_confidence:
        return "confidence below min_confidence"
    if labels.require_agreement and not all(one.agree for one in opinions if one.preference is not None):
        return "answers that disagree"
    return ""


def _threshold(row: Mapping[str, Any], labels: Labels) -> float:
    """The probability below which the other reply is chosen: one half, or drawn by the row's content."""
    if labels.labels == "likelier":
        return 0.5
    return Random(keyed_seed(labels.seed, "label", [row[name] for name in PAIR])).random()


def _entries(name: str, opinion: Opinion, flipped: bool) -> list[dict[str, Any]]:
    """What a row keeps of an opinion: an entry per judge."""
    preference = opinion.preference
    kept = 1 - preference if flipped and preference is not None else preference
    # With the replies exchanged, the answers about the other order of showing them change places.
    return [
        {"principle": name, "judge": judge, "preference": kept, "a_first": one, "b_first": other}
        | ({"rated": True} if opinion.rated else {})
        for judge, answers in opinion.answers.items()
        for one, other in [reversed(answers) if flipped else answers]
    ]
