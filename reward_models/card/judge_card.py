"""A judge's card: its agreement with gold, its biases and its consistency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignment.data.words import split_words
from alignment.text import decimal
from reward_models.card.judge_bias import Estimate, length_bias, position_bias, rate, sides, word_bias
from reward_models.card.margins import BINS, COIN
from reward_models.judges.asked import PairQuestion
from reward_models.judges.panel import PairOpinion
from reward_models.protocol import reply_text
from reward_models.reliability import expected_calibration_error, reliability

# ---- Columns of judged pairs ----


@dataclass(frozen=True)
class JudgedPairs:
    """Pairs that a judge has seen in both positions, as (B,) arrays.

    Attributes:
        a_first, b_first: probability that the reply shown first is better, with a or b shown first.
        texts_a, texts_b: the replies.
        gold_gaps: gold score of a minus that of b, NaN where unknown; if only preferences are known, 1, -1 and 0.
        principles, families: the name of each pair's principle and family; None without.
        prompts: names each pair's prompt: pairs of the same prompt count as dependent.
    """

    a_first: np.ndarray
    b_first: np.ndarray
    texts_a: np.ndarray
    texts_b: np.ndarray
    gold_gaps: np.ndarray | None = None
    principles: np.ndarray | None = None
    families: np.ndarray | None = None
    prompts: np.ndarray | None = None

    @property
    def preferences(self) -> np.ndarray:
        """(B,) probability that a is better, the mean of both positions."""
        return 0.5 + (self.a_first - self.b_first) / 2

    def where(self, kept: np.ndarray) -> JudgedPairs:
        """The pairs of a (B,) mask."""
        columns = {name: values[kept] for name, values in vars(self).items() if values is not None}
        return replace(self, **columns)


def judged_pairs(
    pairs: Sequence[PairQuestion],
    opinions: Sequence[PairOpinion],
    gold_gaps: Sequence[float | None] | None = None,
    principles: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    judge: str | None = None,
) -> JudgedPairs:
    """The pairs on which a judge has an opinion in both positions, from `panel.judge_pairs`.

    Args:
        gold_gaps: gold score of a minus that of b per pair, None where unknown.
        judge: the name of a judge; by default the mean over the judges with an opinion.
    """
    answers = [[one for one in opinion.judges if judge in (None, one.judge)] for opinion in opinions]
    known = [[one for one in some if one.preference is not None] for some in answers]
    kept = [at for at, some in enumerate(known) if some]
    chosen = [pairs[at] for at in kept]

    def column(values: Sequence[Any] | None) -> np.ndarray | None:
        return None if values is None else np.array([values[at] for at in kept], dtype=object)

    gaps = None if gold_gaps is None else [float("nan") if gap is None else float(gap) for gap in gold_gaps]
    return JudgedPairs(
        np.array([np.mean([one.a_first for one in known[at]]) for at in kept], float),
        np.array([np.mean([one.b_first for one in known[at]]) for at in kept], float),
        np.array([reply_text(pair.a) for pair in chosen], dtype=object),
        np.array([reply_text(pair.b) for pair in chosen], dtype=object),
        None if gaps is None else np.array([gaps[at] for at in kept], float),
        column(principles),
        column(families),
        np.unique([repr(pair.prompt) for pair in chosen], return_inverse=True)[1],
    )


# ---- The card ----


def judge_card(pairs: JudgedPairs) -> dict[str, Any]:
    """The figures of a judge.

    Returns:
        n, consistency, position_bias, position_effect, length_bias, words {tested, found}, and if gold is known: gold
        (pairs with a gold preference), agreement, by_principle, by_family, calibration {ece, brier, bins}. Estimates
        are {value, low, high, n}; biases are shares beyond a half.
    """
    clusters, preferences = pairs.prompts, pairs.preferences
    known = np.zeros(len(preferences), bool) if pairs.gold_gaps is None else np.isfinite(pairs.gold_gaps)
    # Length and words are controlled for gold, on the pairs on which it is known.
    controlled = bool(known.any())
    biased = pairs.where(known) if controlled else pairs
    gaps = biased.gold_gaps if controlled else None
    texts = list(biased.texts_a), list(biased.texts_b)
    words, presences, tested = word_bias(biased.preferences, *texts, gaps, biased.prompts)
    extra = _extra_words(biased)
    card: dict[str, Any] = {
        "n": len(preferences),
        "consistency": rate((sides(pairs.a_first) == 1 - sides(pairs.b_first)).astype(float), clusters),
        "position_bias": position_bias(pairs.a_first, pairs.b_first, clusters),
        "position_effect": float((pairs.a_first + pairs.b_first - 1).mean() / 2) if len(preferences) else None,
        "length_bias": length_bias(biased.preferences, extra, gaps, biased.prompts, presences),
        "typical_words": float(np.sqrt((extra**2).mean())) if len(extra) else None,
        "controlled_for_gold": controlled,
        "words": {"tested": tested, "found": words},
    }
    if pairs.gold_gaps is None:
        return card
    return card | _against_gold(pairs.where(known & (pairs.gold_gaps != 0)))


def _against_gold(pairs: JudgedPairs) -> dict[str, Any]:
    """The figures that need a gold preference, which each of the pairs has."""
    assert pairs.gold_gaps is not None
    preferences, sign = pairs.preferences, np.sign(pairs.gold_gaps)
    right = (1 + (2 * sides(preferences) - 1) * sign) / 2
    confidence = np.maximum(preferences, 1 - preferences)
    ece = expected_calibration_error(confidence, right, BINS, "width", COIN)
    return {
        "gold": len(right),
        "agreement": rate(right, pairs.prompts),
        "by_principle": _by(pairs.principles, right, pairs.prompts),
        "by_family": _by(pairs.families, right, pairs.prompts),
        "calibration": {
            "ece": ece if len(right) else None,
            "brier": float(((preferences - (1 + sign) / 2) ** 2).mean()) if len(right) else None,
            "bins": reliability(confidence, right, BINS, "width", COIN),
        },
    }


def _by(names: np.ndarray | None, right: np.ndarray, clusters: np.ndarray | None) -> list[dict[str, Any]]:
    """The agreement of each group: [{name, value, low, high, n}]."""
    if names is None:
        return []
    result = []
    for name in sorted({str(one) for one in names}):
        inside = np.array([str(one) == name for one in names])
        result.append({"name": name, **rate(right[inside], None if clusters is None else clusters[inside])})
    return result


def _extra_words(pairs: JudgedPairs) -> np.ndarray:
    both = zip(pairs.texts_a, pairs.texts_b, strict=True)
    return np.array([len(split_words(a)) - len(split_words(b)) for a, b in both], float)


# ---- Limits ----


def beyond_limits(
    card: Mapping[str, Any],
    max_position_bias: float | None = None,
    max_length_bias: float | None = None,
    min_agreement: float | None = None,
) -> list[str]:
    """What exceeds the limits, as sentences; empty if nothing does.

    A bias exceeds its limit if its whole interval lies beyond the limit, on either side: a few pairs prove no bias. An
    agreement is too low if its interval reaches below the limit, for any principle or, without principles, in total: a
    few pairs prove no agreement.
    """
    found = []
    for name, limit in (("position_bias", max_position_bias), ("length_bias", max_length_bias)):
        one: Estimate = card[name]
        low, high = (one["value"] if one[end] is None else one[end] for end in ("low", "high"))
        if limit is not None and low is not None and high is not None and (low > limit or high < -limit):
            control = "" if name == "position_bias" or card["controlled_for_gold"] else ", not controlled for gold"
            found.append(f"{name.replace('_', ' ')} {estimate_text(one)}{control}: beyond {limit:g}")
    if min_agreement is None:
        return found
    if "agreement" not in card:
        return [*found, "agreement: unknown, as no pair has a gold preference"]
    rows = [(f"agreement on {one['name']}", one) for one in card["by_principle"]] or [("agreement", card["agreement"])]
    for name, one in rows:
        if one["low"] is None or one["low"] < min_agreement:
            text = f"{name} {estimate_text(one, sign=False)} on {one['n']} pairs"
            found.append(f"{text}: not shown to be at least {min_agreement:g}")
    return found


def estimate_text(one: Mapping[str, Any], sign: bool = True) -> str:
    """An estimate with its interval: `+0.12 [+0.08, +0.16]`."""
    if one["value"] is None:
        return "unknown"
    value, low, high = (decimal(one[key], sign=sign) for key in ("value", "low", "high"))
    return value if one["low"] is None else f"{value} [{low}, {high}]"
