"""Accuracy of a reward on preference pairs, compared with always preferring the shorter (or longer) reply."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.data.words import split_words
from reward_models.calls import scores_of
from reward_models.card.gold_scores import GOLD_COLUMNS as GOLD_COLUMNS
from reward_models.card.gold_scores import as_score, gold_gaps
from reward_models.card.margins import agreement, calibration, quantile_bins, share
from reward_models.protocol import Reward, reply_text

if TYPE_CHECKING:
    from datasets import Dataset

GAP_EDGES = (0.1, 0.3, 0.5, 0.8, 1.2, 2.01)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class PairScores:
    """Scores and lengths of both replies of each pair, as (B,) arrays.

    Attributes:
        chosen, rejected: scores, NaN for a reply without a score.
        words_chosen, words_rejected: lengths in words; in scripts without spaces a character is a word.
        gold_gaps: gold reward of chosen minus gold reward of rejected; None if unknown.
        subsets: the subset of each pair; None without a column for it.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    words_chosen: np.ndarray
    words_rejected: np.ndarray
    gold_gaps: np.ndarray | None = None
    subsets: np.ndarray | None = None

    @property
    def scored(self) -> np.ndarray:
        """Whether both replies of each pair have a score. -> (B,)"""
        return ~(np.isnan(self.chosen) | np.isnan(self.rejected))


def score_pairs(reward: Reward, pairs: Dataset, subset: str | None = None) -> PairScores:
    """Score both replies of each pair.

    Args:
        pairs: rows {prompt, chosen, rejected} of messages, with gold_chosen and gold_rejected if they are known; the
            reward gets the other columns.
        subset: the column with each pair's subset.
    """
    columns = {name: list(pairs[name]) for name in pairs.column_names}
    sides = {side: columns.pop(side) for side in ("chosen", "rejected")}
    prompts = columns.pop("prompt")
    chosen, rejected = (
        np.array(scores_of(reward, prompts, replies, columns), dtype=float) for replies in sides.values()
    )
    words_chosen, words_rejected = (
        np.array([len(split_words(reply_text(reply))) for reply in replies]) for replies in sides.values()
    )
    return PairScores(
        chosen,
        rejected,
        words_chosen,
        words_rejected,
        gold_gaps=gold_gaps(pairs),
        subsets=np.array(list(map(str, columns[subset]))) if subset else None,
    )


def judge_pairs(reward: Reward, pairs: Dataset, min_gap: float, subset: str | None = None) -> dict:
    """The card of a reward on pairs, see `pair_card`.

    Args:
        min_gap: least gold gap of the pairs that count; gold rewards give labels without noise.
        subset: the column with each pair's subset.
    """
    return pair_card(score_pairs(reward, pairs, subset), min_gap)


def pair_card(scores: PairScores, min_gap: float = 0.0) -> dict:
    """`pairwise_card` of the scored pairs, with calibration and a summary of the scores.

    Calibration is against the labels as they are, the other figures against the gold labels if they are known.

    Returns:
        the keys of `pairwise_card`, and unscored, calibration and scores.
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
    """Accuracy of a reward on pairs, and of the better rule that looks at the length alone.

    Args:
        margins: (B,) reward of chosen minus reward of rejected.
        extra_words: (B,) length of chosen minus length of rejected.
        gold_gaps: (B,) gold reward of chosen minus gold reward of rejected; its sign is the label without noise.
        min_gap: pairs with a smaller gold gap are left out.
        subsets: (B,) the subset of each pair.

    Returns:
        {accuracy, se, length_baseline, length_rule, n, left_out, min_gap, ties, by_margin, by_length, by_gap,
        by_subset}; ties count half. by_margin is by the size of the margin, by_length by the words of the preferred
        reply minus those of the other reply, both in fifths of the pairs.
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
    """Number of pairs and accuracy in each range of the gold gap: [{low, high, n, accuracy}]."""
    bins = []
    for low, high in itertools.pairwise(GAP_EDGES):
        inside = (gaps >= low) & (gaps < high)
        count = int(inside.sum())
        bins.append({"low": low, "high": high, "n": count, "accuracy": float(right[inside].mean()) if count else None})
    return bins


def score_summary(scores: PairScores, kept: np.ndarray) -> dict:
    """Summary of the replies' scores: {n, mean, std, quantiles, margin_mean, margin_std, length_correlation}.

    length_correlation is the correlation of score and length in words; None if either is constant.
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


def is_summary(found: Any) -> bool:
    """Whether a value of JSON is a `score_summary`, as far as `score_drift` reads it."""
    quantiles = found.get("quantiles") if isinstance(found, dict) else None
    if not isinstance(quantiles, dict) or set(quantiles) != {f"{share:g}" for share in QUANTILES}:
        return False
    values = [found.get("mean"), found.get("std"), *quantiles.values()]
    return all(isinstance(value, int | float) and as_score(value) is not None for value in values)


def score_drift(before: dict, now: dict) -> dict:
    """The change of a reward's scores between two sets of replies, from their summaries.

    Returns:
        {mean_shift, largest_quantile_shift, std_ratio}, the shifts in standard deviations of `before`; all None if
        `before` is constant.
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
