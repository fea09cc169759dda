"""Standard errors, intervals and tests for eval scores: pure functions of numpy arrays.

Every figure here is a weighted mean of item scores, `sum(w * s) / sum(w)`: an accuracy has weights of one, bits per
byte weighs each document by its bytes (a ratio estimator). Items of one cluster (questions about one entity, say) are
not independent, so standard errors sum over clusters first (Miller 2024, "Adding Error Bars to Evals").

Intervals are Student's t with one degree of freedom less than there are clusters. Of the intervals tried in
benchmarks/interval_coverage.py it comes nearest to the 95% that it claims; the percentile bootstrap falls short below
40 clusters. (Bootstrap-t, tried and left out, covered as well, but 78% where few items changed.)
"""

from collections.abc import Iterator

import numpy as np


def weighted_mean(scores: np.ndarray, weights: np.ndarray) -> float:
    """`sum(w * s) / sum(w)` of (n,) scores and weights; NaN without weight."""
    total = np.sum(weights)
    return float(np.sum(scores * weights) / total) if total > 0 else float("nan")


def clustered_se(influence: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of an estimate from its items' influence on it.

    Args:
        influence: (n,), how far each item moves the estimate; sums to zero.
        clusters: (n,), labels; items with equal labels may depend on each other.

    The usual clustered variance, the sum over clusters of the squared sum of influence, with the small-sample factor
    G / (G - 1). With one item a cluster it is the textbook standard error s / sqrt(n). NaN for fewer than two clusters.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=influence)
    if len(sums) < 2:
        return float("nan")
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)))


def mean_influence(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(n,): each item's influence on the weighted mean (the delta method's linearisation of a ratio)."""
    return weights * (scores - weighted_mean(scores, weights)) / np.sum(weights)


def mean_se(scores: np.ndarray, weights: np.ndarray | None = None, clusters: np.ndarray | None = None) -> float:
    """Standard error of `weighted_mean`.

    Args:
        scores: (n,) item scores.
        weights: (n,), ones by default; denominators as weights give the ratio estimator's delta-method error.
        clusters: (n,) labels; every item its own cluster by default.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    clusters = np.arange(len(scores)) if clusters is None else clusters
    return clustered_se(mean_influence(scores, weights), clusters)


def macro_mean(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray) -> float:
    """Mean over tasks of the tasks' weighted means. All arrays (n,); `tasks` holds labels."""
    return float(np.mean([weighted_mean(scores[tasks == t], weights[tasks == t]) for t in np.unique(tasks)]))


def macro_se(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of `macro_mean`: tasks are fixed, items are drawn, and a cluster may reach over several tasks."""
    names = np.unique(tasks)
    influence = np.zeros(len(scores))
    for name in names:
        rows = tasks == name
        influence[rows] = mean_influence(scores[rows], weights[rows]) / len(names)
    return clustered_se(influence, clusters)


def t_interval(value: float, se: float, clusters: int, *, level: float = 0.95) -> tuple[float, float]:
    """`value` -+ the t quantile with `clusters - 1` degrees of freedom times `se`; NaN for fewer than two clusters.

    Of no width where `se` is 0: no cluster differs from another, which says nothing about items that were not asked.
    """
    from scipy.stats import t

    if clusters < 2:
        return float("nan"), float("nan")
    reach = float(t.ppf((1 + level) / 2, clusters - 1)) * se
    return value - reach, value + reach


def bootstrap_ci(
    scores: np.ndarray,
    weights: np.ndarray,
    tasks: np.ndarray,
    clusters: np.ndarray,
    *,
    seed: int = 0,
    iterations: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of `macro_mean` (of the plain weighted mean where there is one task), resampling clusters.

    All arrays (n,). Differences of paired scores give the interval of a difference. NaN for fewer than two clusters.
    """
    _, task = np.unique(tasks, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    shape = (cluster.max() + 1, task.max() + 1)
    if shape[0] < 2:
        return float("nan"), float("nan")
    total, weight = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (cluster, task), scores * weights)
    np.add.at(weight, (cluster, task), weights)
    means = []
    for counts in resampled_counts(shape[0], iterations, seed):
        drawn = counts @ weight
        # A rare task can be missing from a resample: the macro mean is then over the tasks that are there.
        ratios = np.divide(counts @ total, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
        means.append(np.nanmean(ratios, axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_counts(groups: int, iterations: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `groups` clusters is in each bootstrap resample: `iterations` of them, as (draws, groups).

    In blocks of about a million counts, so that memory stays small with many clusters.
    """
    rng = np.random.default_rng(seed)
    block = max(1, min(iterations, 1_000_000 // groups))
    for start in range(0, iterations, block):
        draws = min(block, iterations - start)
        drawn = rng.integers(groups, size=(draws, groups)) + groups * np.arange(draws)[:, None]
        yield np.bincount(drawn.ravel(), minlength=draws * groups).reshape(draws, groups).astype(float)


def mcnemar_exact(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided exact McNemar p-value of two (n,) 0/1 arrays on the same items; 1.0 where no item changed."""
    from scipy.stats import binomtest

    fixed, regressed = int(np.sum((a == 0) & (b == 1))), int(np.sum((a == 1) & (b == 0)))
    return float(binomtest(fixed, fixed + regressed, 0.5).pvalue) if fixed + regressed else 1.0


def mcnemar_clustered(change: np.ndarray, clusters: np.ndarray) -> float:
    """Two-sided exact p-value of paired 0/1 scores whose items depend on each other within a cluster.

    Args:
        change: (n,) of -1 (regressed), 0 or 1 (fixed).
        clusters: (n,) labels.

    McNemar's test takes every item for independent, and with clusters finds too much. Here whole clusters change sign
    instead: where the two checkpoints are alike, a cluster's sum of changes is as likely to be its opposite. The sums
    are whole numbers, so the distribution of their total over all sign changes is counted, not sampled. With one item
    a cluster it is the exact McNemar test. Nothing is assumed of the items within a cluster, nor of how many clusters
    there are (Canay, Romano and Shaikh 2017); below six clusters with a change no p-value can reach 0.05.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.abs(np.bincount(index, weights=change)).round().astype(int)
    reach = int(np.sum(sums))
    chance = np.zeros(2 * reach + 1)  # of a total of -reach ... reach
    chance[reach] = 1.0
    for size in sums[sums > 0]:
        chance = 0.5 * (np.roll(chance, size) + np.roll(chance, -size))
    totals = np.abs(np.arange(-reach, reach + 1))
    return float(min(1.0, np.sum(chance[totals >= abs(round(float(np.sum(change))))])))


def t_test_p(delta: float, se: float, clusters: int) -> float:
    """Two-sided p-value of `delta / se` under Student's t with `clusters - 1` degrees of freedom.

    1.0 where there is nothing to test: no difference, or fewer than two clusters.
    """
    from scipy.stats import t

    if delta == 0 or clusters < 2:
        return 1.0
    return float(2 * t.sf(abs(delta) / se, clusters - 1)) if se > 0 else 0.0


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: reject where the adjusted value is at most alpha."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if len(order) else scaled
    return adjusted.tolist()


def minimum_detectable_effect(se: float, clusters: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided t-test at `alpha` finds with probability `power`.

    With many clusters 2.8 standard errors, with ten 3.1 (t quantiles of `clusters - 1` degrees of freedom). NaN where
    the standard error is 0 or unknown: where nothing changed, these items do not say how much they vary.
    """
    from scipy.stats import t

    if not se > 0:
        return float("nan")
    return float((t.ppf(1 - alpha / 2, clusters - 1) + t.ppf(power, clusters - 1)) * se)
