"""How well a reward ranks pairs, beside what preferring the shorter (or longer) reply would give."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignment.data.words import split_words
from reward_models.card.margins import agreement, calibration, quantile_bins, share
from reward_models.protocol import Reward, reply_text

if TYPE_CHECKING:
    from datasets import Dataset

GOLD_COLUMNS = ["gold_chosen", "gold_rejected"]
GAP_EDGES = (0.1, 0.3, 0.5, 0.8, 1.2, 2.01)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class PairScores:
    """Both replies of each pair, as arrays of (B,): their scores, NaN where there is none, and their lengths in words.

    Attributes:
        gold_gaps: gold reward of chosen minus that of rejected, where it is known.
        subsets: what each pair belongs to, where a column says so.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    words_chosen: np.ndarray
    words_rejected: np.ndarray
    gold_gaps: np.ndarray | None = None
    subsets: np.ndarray | None = None

    @property
    def scored(self) -> np.ndarray:
        return ~(np.isnan(self.chosen) | np.isnan(self.rejected))


def score_pairs(reward: Reward, pairs: Dataset, subset: str | None = None) -> PairScores:
    """Score both replies of each pair.

    Args:
        pairs: rows {prompt, chosen, rejected} of messages, with gold_chosen and gold_rejected where they are known;
            the reward gets the other columns.
        subset: the column that says what a pair belongs to.
    """
    columns = {name: list(pairs[name]) for name in pairs.column_names}
    sides = {side: columns.pop(side) for side in ("chosen", "rejected")}
    prompts = columns.pop("prompt")
    scores = [reward(prompts=prompts, completions=replies, **columns) for replies in sides.values()]
    words = [np.array([len(split_words(reply_text(reply))) for reply in replies]) for replies in sides.values()]
    gold = [np.array(columns[name]) for name in GOLD_COLUMNS if name in columns]
    return PairScores(
        *(np.array(one, dtype=float) for one in scores),
        *words,
        gold_gaps=gold[0] - gold[1] if len(gold) == 2 else None,
        subsets=np.array(list(map(str, columns[subset]))) if subset else None,
    )


def judge_pairs(reward: Reward, pairs: Dataset, min_gap: float, subset: str | None = None) -> dict:
    """The card of a reward on pairs: with gold rewards, against the noise-free labels.

    Args:
        min_gap: pairs whose gold rewards differ by less are left out.
    """
    return pair_card(score_pairs(reward, pairs, subset), min_gap)


def pair_card(scores: PairScores, min_gap: float = 0.0) -> dict:
    """`pairwise_card` of the pairs that are scored, with calibration and what the scores are like.

    Calibration is against the labels as they are, the rest against the noise-free ones where they are known.

    Returns:
        the keys of `pairwise_card`, unscored, calibration and scores.
    """
    kept = scores.scored
    margins = (scores.chosen - scores.rejected)[kept]
    card = pairwise_card(
        margins,
        (scores.words_chosen - scores.words_rejected)[kept],
        None if scores.gold_gaps is None else scores.gold_gaps[kept],
        min_gap,
        None if scores.subsets is None else scores.subsets[kept],
    )
    card["unscored"] = int((~kept).sum())
    if len(margins):
        card["calibration"] = calibration(margins)
        card["scores"] = score_summary(scores, kept)
    return card


def pairwise_card(
    margins: np.ndarray,
    extra_words: np.ndarray,
    gold_gaps: np.ndarray | None = None,
    min_gap: float = 0.0,
    subsets: np.ndarray | None = None,
) -> dict:
    """Accuracy of a reward on pairs, and of the best rule that looks at the length alone.

    Args:
        margins: reward of chosen minus reward of rejected, a number a pair.
        extra_words: length of chosen minus length of rejected.
        gold_gaps: gold reward of chosen minus that of rejected: the label without noise is its sign.
        min_gap: pairs with a smaller gold gap are left out.
        subsets: what each pair belongs to.

    Returns:
        {accuracy, se, length_baseline, length_rule, n, left_out, min_gap, ties, by_margin, by_length, by_gap,
        by_subset}; ties count half. by_margin goes by the size of the margin, by_length by how many words the preferred
        reply has more than the other; both in fifths of the pairs.
    """
    kept = np.ones(len(margins), bool) if gold_gaps is None else np.abs(gold_gaps) >= min_gap
    sign = (np.ones(len(margins)) if gold_gaps is None else np.sign(gold_gaps))[kept]
    right = agreement(margins[kept], sign)
    shorter = share(agreement(-extra_words[kept], sign))["accuracy"]
    card = share(right) | {
        "length_baseline": None if shorter is None else max(shorter, 1 - shorter),
        "length_rule": "shorter" if shorter is None or shorter >= 0.5 else "longer",
        "left_out": int((~kept).sum()),
        "min_gap": min_gap,
        "ties": int((margins[kept] == 0).sum()),
        "by_margin": quantile_bins(np.abs(margins[kept]), right),
        "by_length": quantile_bins(extra_words[kept] * sign, right),
    }
    if gold_gaps is not None:
        card["by_gap"] = by_gap(right, np.abs(gold_gaps)[kept])
    if subsets is not None:
        names = subsets[kept]
        card["by_subset"] = [{"name": str(name), **share(right[names == name])} for name in np.unique(names)]
    return card


def by_gap(right: np.ndarray, gaps: np.ndarray) -> list[dict]:
    """Accuracy within each range of the gold gap: the histogram of the pairs, and where the model fails."""
    bins = []
    for low, high in itertools.pairwise(GAP_EDGES):
        inside = (gaps >= low) & (gaps < high)
        count = int(inside.sum())
        bins.append({"low": low, "high": high, "n": count, "accuracy": float(right[inside].mean()) if count else None})
    return bins


def score_summary(scores: PairScores, kept: np.ndarray) -> dict:
    """What the scores of all replies are like: {n, mean, std, quantiles, margin_mean, margin_std, length_correlation}.

    length_correlation is that of a reply's score and its words; None where one of them is constant.
    """
    values = np.concatenate([scores.chosen[kept], scores.rejected[kept]])
    words = np.concatenate([scores.words_chosen[kept], scores.words_rejected[kept]])
    varied = values.std() > 0 and words.std() > 0
    margins = (scores.chosen - scores.rejected)[kept]
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "quantiles": {f"{share:g}": float(np.quantile(values, share)) for share in QUANTILES},
        "margin_mean": float(margins.mean()),
        "margin_std": float(margins.std()),
        "length_correlation": float(np.corrcoef(values, words)[0, 1]) if varied else None,
    }


def score_drift(before: dict, now: dict) -> dict:
    """How a reward's scores moved from one set of replies to another, by their summaries.

    Returns:
        {mean_shift, largest_quantile_shift}, both in deviations of before, and std_ratio; None where before is
        constant.
    """
    scale = before["std"]
    if scale == 0:
        return {"mean_shift": None, "largest_quantile_shift": None, "std_ratio": None}
    shifts = [now["quantiles"][key] - value for key, value in before["quantiles"].items()]
    return {
        "mean_shift": (now["mean"] - before["mean"]) / scale,
        "largest_quantile_shift": max(shifts, key=abs) / scale,
        "std_ratio": now["std"] / scale,
    }
