"""What a judge's preferences depend on besides the replies' quality: position, length and single words.

Pure functions of numpy arrays. Pairs of a cluster, such as those of the same prompt, count as dependent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from scipy.special import stdtr, stdtrit

from alignment.data.words import split_words, words

LEVEL = 0.95  # of intervals; 1 - LEVEL is the rate of false alarms of a test
LEAST_PAIRS = 20  # in which a word is in one reply only, for the word to be tested
MOST_WORDS = 2000  # tested, those in the most pairs
ROUNDING = 1e-9  # smaller residuals and coefficients are rounding errors


class Estimate(TypedDict):
    """A value with its 95% interval; None if there are too few pairs."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Word(TypedDict):
    """A word whose presence predicts the judge's preference: how far beyond half it is preferred, gold being equal."""

    words: list[str]
    value: float
    low: float
    high: float
    n: int
    p: float


def rate(values: np.ndarray, clusters: np.ndarray | None = None) -> Estimate:
    """The mean of values in [0, 1] with Wilson's interval, at Student's quantile.

    As in eval/comparison/intervals.py, the effective number of independent values is the one that gives the mean its
    standard error, or the number of clusters if the values do not vary.
    """
    values = np.asarray(values, dtype=float)
    count, groups = len(values), _groups(len(values), clusters)
    if not count:
        return {"value": None, "low": None, "high": None, "n": 0}
    mean, number = float(values.mean()), int(groups.max()) + 1
    if number < 2:
        return {"value": mean, "low": None, "high": None, "n": count}
    variance = _variance(values - mean, groups)
    size = mean * (1 - mean) / variance if variance > 0 else number
    z2 = float(stdtrit(number - 1, (1 + LEVEL) / 2)) ** 2 / size
    centre = (mean + z2 / 2) / (1 + z2)
    half = float(np.sqrt(z2 * (mean * (1 - mean) + z2 / 4))) / (1 + z2)
    return {"value": mean, "low": max(0.0, centre - half), "high": min(1.0, centre + half), "n": count}


def with_interval(value: float, deviations: np.ndarray, clusters: np.ndarray | None = None) -> Estimate:
    """A mean, or a function of means, with its interval of Student's t.

    Args:
        deviations: (B,) the influence of each pair on the value, which adds up to 0: for a mean, values less the mean.
    """
    count, groups = len(deviations), _groups(len(deviations), clusters)
    number = int(groups.max()) + 1
    if number < 2:
        return {"value": value, "low": None, "high": None, "n": count}
    reach = float(stdtrit(number - 1, (1 + LEVEL) / 2) * np.sqrt(_variance(deviations, groups)))
    return {"value": value, "low": value - reach, "high": value + reach, "n": count}


def sides(probabilities: np.ndarray) -> np.ndarray:
    """1 for a probability above a half, 0 below, 0.5 for a half."""
    return (1 + np.sign(probabilities - 0.5)) / 2


def position_bias(a_first: np.ndarray, b_first: np.ndarray, clusters: np.ndarray | None = None) -> Estimate:
    """The share of verdicts for the reply shown first, beyond a half.

    Which reply is better cancels, since each pair is shown in both positions.

    Args:
        a_first, b_first: (B,) probability that the reply shown first is better, with a or b shown first.
    """
    found = rate((sides(a_first) + sides(b_first)) / 2, clusters)
    return _shifted(found, -0.5)


@dataclass(frozen=True)
class Fit:
    """A regression of preferences on differences between the replies of each pair.

    Attributes:
        coefficients: (k,) change of the probability that a is preferred per unit of each difference.
        errors: (k,) their standard errors.
        clusters: number of clusters.
        residuals: (B,).
    """

    coefficients: np.ndarray
    errors: np.ndarray
    clusters: int
    residuals: np.ndarray


def regress(columns: np.ndarray, preferences: np.ndarray, groups: np.ndarray) -> Fit:
    """Regress preferences in [0, 1] for a over b, less a half, on differences between a and b.

    There is no intercept, because exchanging the replies changes the sign of every column. The regression is linear: a
    judge that agrees with gold on every pair, or prefers the longer reply of every pair, has no logistic estimate, and
    a penalty that makes it finite ascribes a part of the gold preference to the length. (Simulated: a judge without any
    error was then found biased whenever longer replies are better.)

    Args:
        columns: (B, k) differences.
        groups: (B,) the cluster of each pair, counted from 0. The standard errors allow for dependence within clusters
            and for unequal variances (Liang and Zeger 1986, with the factor G / (G - k) for G clusters).
    """
    inverse = np.linalg.pinv(columns.T @ columns)
    coefficients = inverse @ columns.T @ (preferences - 0.5)
    residuals = preferences - 0.5 - columns @ coefficients
    residuals[np.abs(residuals) < ROUNDING] = 0.0
    sums = _summed(columns * residuals[:, None], groups)
    factor = len(sums) / max(1, len(sums) - columns.shape[1])
    errors = np.sqrt(np.maximum(0.0, np.diag(inverse @ (sums.T @ sums) @ inverse)) * factor)
    coefficients[np.abs(coefficients) < ROUNDING] = 0.0
    return Fit(coefficients, errors, len(sums), residuals)


def length_bias(
    preferences: np.ndarray,
    extra_words: np.ndarray,
    gold_gaps: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    presences: Sequence[np.ndarray] = (),
) -> Estimate:
    """How far beyond a half a reply is preferred that is longer by a typical difference, gold being equal.

    The typical difference is the root mean square of `extra_words`. From a regression of the preference on the
    difference in words, the sign of the gold gap, and the gap's size if it varies.

    Args:
        preferences: (B,) probability that a is better, the mean of both positions.
        extra_words: (B,) words of a minus words of b.
        gold_gaps: (B,) gold score of a minus that of b; None if unknown, so that nothing is controlled for.
        presences: (B,) of each word that the judge prefers, see `word_bias`: a longer reply has more words.
    """
    groups = _groups(len(preferences), clusters)
    columns = [_scaled(extra_words), *gold_columns(gold_gaps), *presences]
    if not columns[0].any():
        return {"value": None, "low": None, "high": None, "n": len(preferences)}
    return _effect(regress(np.stack(columns, 1), preferences, groups), 0, len(preferences))


def gold_columns(gold_gaps: np.ndarray | None) -> list[np.ndarray]:
    """The columns that stand for the gold preference: its sign, and the gap's size if that varies."""
    if gold_gaps is None or not gold_gaps.any():
        return []
    sizes = np.abs(gold_gaps[gold_gaps != 0])
    return [np.sign(gold_gaps), *([] if np.ptp(sizes) == 0 else [_scaled(gold_gaps)])]


def word_bias(
    preferences: np.ndarray,
    texts_a: Sequence[str],
    texts_b: Sequence[str],
    gold_gaps: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
) -> tuple[list[Word], list[np.ndarray], int]:
    """The words whose presence predicts the preference beyond gold and length.

    A score test per word that is in only one reply of at least LEAST_PAIRS pairs, given gold and length (the difference
    in words and its sign); Holm's correction over the words keeps the probability of any false alarm below 5%. Words
    that are always together are tested as one.

    Returns:
        the words, the smallest p-value first; (B,) for each, 1 if a alone has the word, -1 if b alone has it, otherwise
        0; and the number of words tested.
    """
    groups = _groups(len(preferences), clusters)
    tested = _presences(texts_a, texts_b)
    if not tested:
        return [], [], 0
    extra = np.array([len(split_words(a)) - len(split_words(b)) for a, b in zip(texts_a, texts_b, strict=True)], float)
    known = [*gold_columns(gold_gaps), *([_scaled(extra), np.sign(extra)] if extra.any() else [])]
    columns = np.stack(known, 1) if known else np.zeros((len(preferences), 0))
    fit = regress(columns, preferences, groups)
    p_values = np.array([_score_test(presence, columns, fit, groups) for _, presence in tested])
    rejected = holm(p_values, 1 - LEVEL)
    found: list[Word] = []
    for at in rejected:
        names, presence = tested[at]
        refit = regress(np.column_stack([presence, columns]), preferences, groups)
        effect = _effect(refit, 0, int(np.count_nonzero(presence)))
        value, low, high = (effect[key] or 0.0 for key in ("value", "low", "high"))
        found.append({"words": names, "value": value, "low": low, "high": high, "n": effect["n"], "p": p_values[at]})
    return found, [tested[at][1] for at in rejected], len(tested)


def holm(p_values: np.ndarray, level: float) -> list[int]:
    """The places of the hypotheses that Holm's procedure (1979) rejects, the smallest p-value first."""
    order = np.argsort(p_values, kind="stable")
    rejected = []
    for rank, at in enumerate(order):
        if p_values[at] > level / (len(p_values) - rank):
            break
        rejected.append(int(at))
    return rejected


def _presences(texts_a: Sequence[str], texts_b: Sequence[str]) -> list[tuple[list[str], np.ndarray]]:
    """(words, (B,) 1 if a alone has them, -1 if b alone, otherwise 0) for each word to be tested."""
    signs: dict[str, dict[int, int]] = defaultdict(dict)
    for at, (a, b) in enumerate(zip(texts_a, texts_b, strict=True)):
        left, right = (set(words(text)) for text in (a, b))
        for word in left ^ right:
            signs[word][at] = 1 if word in left else -1
    often = sorted(
        (word for word in signs if len(signs[word]) >= LEAST_PAIRS), key=lambda word: (-len(signs[word]), word)
    )
    together: dict[tuple, list[str]] = defaultdict(list)
    for word in often[:MOST_WORDS]:
        together[tuple(signs[word].items())].append(word)
    result = []
    for places, names in together.items():
        presence = np.zeros(len(texts_a))
        presence[[at for at, _ in places]] = [sign for _, sign in places]
        result.append((names, presence))
    return result


def _score_test(presence: np.ndarray, columns: np.ndarray, fit: Fit, groups: np.ndarray) -> float:
    """The p-value of a further column in a regression, robust to dependence within clusters."""
    rest = presence - columns @ np.linalg.lstsq(columns, presence, rcond=None)[0]
    scores = _summed((rest * fit.residuals)[:, None], groups)[:, 0]
    variance = float((scores**2).sum())
    # Clusters without the word add little: those with it are the sample.
    sample = len(np.unique(groups[presence != 0]))
    if variance <= 0 or sample < 2:
        return 1.0
    return float(2 * stdtr(sample - 1, -abs(scores.sum()) / np.sqrt(variance)))


def _effect(fit: Fit, at: int, count: int) -> Estimate:
    """A coefficient with its interval, of Student's t."""
    value, freedom = float(fit.coefficients[at]), fit.clusters - len(fit.coefficients)
    if freedom < 1:
        return {"value": value, "low": None, "high": None, "n": count}
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * float(fit.errors[at])
    return {"value": value, "low": value - reach, "high": value + reach, "n": count}


def _scaled(values: np.ndarray) -> np.ndarray:
    """Differences divided by their root mean square."""
    values = np.asarray(values, dtype=float)
    scale = float(np.sqrt((values**2).mean())) if len(values) else 0.0
    return values / scale if scale else values


def _groups(count: int, clusters: np.ndarray | None) -> np.ndarray:
    """The cluster of each pair, counted from 0; each pair is one without clusters."""
    return np.arange(count) if clusters is None else np.unique(clusters, return_inverse=True)[1]


def _variance(deviations: np.ndarray, groups: np.ndarray) -> float:
    """The variance of a mean with these deviations of its values, which depend on each other within clusters."""
    number = int(groups.max()) + 1
    return float((_summed(deviations[:, None], groups) ** 2).sum()) / len(deviations) ** 2 * number / (number - 1)


def _summed(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(B, k) values summed within clusters. -> (clusters, k)"""
    sums = np.zeros((int(groups.max()) + 1 if len(groups) else 0, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums


def _shifted(found: Estimate, by: float) -> Estimate:
    value, low, high = (None if one is None else one + by for one in (found["value"], found["low"], found["high"]))
    return {"value": value, "low": low, "high": high, "n": found["n"]}
