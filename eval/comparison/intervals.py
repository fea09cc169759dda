"""Confidence intervals of eval scores: pure functions of numpy arrays.

Intervals are Student's t with the number of clusters less one as degrees of freedom, for a mean over tasks with
Satterthwaite's. Of the intervals tried in benchmarks/interval_coverage.py it comes nearest to its nominal 95%; the
percentile bootstrap falls short below 40 clusters. (Bootstrap-t covered as well, but only 78% when few items changed.)
The mean of one model's right-or-wrong scores has Wilson's interval instead.
"""

from collections.abc import Iterator

import numpy as np

from eval.comparison.standard_errors import macro_error, macro_mean

FEWEST_CLUSTERS = 5  # of a difference with an interval: with fewer it says next to nothing, and may fall short


def within(interval: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """Cut an interval to the values that are possible; NaN stays NaN."""
    low, high = np.clip(interval, least, most)
    return float(low), float(high)


def t_interval(
    value: float, se: float, clusters: int, *, df: float | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Return `value` -+ the t quantile times `se`; NaN for fewer than two clusters, and if `se` is 0 or NaN.

    Args:
        clusters: number of clusters.
        df: degrees of freedom; by default the number of clusters less one.
    """
    from scipy.special import stdtrit  # Student's quantile

    if clusters < 2 or not se > 0:
        return float("nan"), float("nan")
    reach = float(stdtrit(clusters - 1 if df is None else df, (1 + level) / 2)) * se
    return value - reach, value + reach


def wilson(
    rate: float, se: float, clusters: int, level: float = 0.95, *, df: float | None = None
) -> tuple[float, float]:
    """Wilson's interval of a rate, at Student's quantile, for the effective number of independent outcomes.

    The effective number is the one that gives the rate its standard error. A standard error of 0 does not determine
    the number, so it is then the number of clusters.

    Args:
        rate: in [0, 1].
        se: standard error of the rate.
        clusters: number of clusters.
        df: degrees of freedom; by default the number of clusters less one.

    Returns:
        (low, high); NaN for fewer than two clusters, and if the standard error is NaN.
    """
    from scipy.special import stdtrit  # Student's quantile

    if clusters < 2 or np.isnan(se):
        return float("nan"), float("nan")
    size = rate * (1 - rate) / se**2 if se > 0 else clusters
    z2 = stdtrit(clusters - 1 if df is None else df, (1 + level) / 2) ** 2 / size
    centre = (rate + z2 / 2) / (1 + z2)
    half = float(np.sqrt(z2 * (rate * (1 - rate) + z2 / 4))) / (1 + z2)
    return within((float(centre) - half, float(centre) + half), 0.0, 1.0)


def macro_interval(
    scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray, clusters: np.ndarray
) -> tuple[float, float]:
    """95% interval of one model's `macro_mean`: Wilson's for right-or-wrong scores, otherwise Student's t.

    The nearer a rate is to 0 or 1, the less it varies, so that a symmetric interval would fall short on one side.
    All arrays are (n,). NaN if a task has fewer than two clusters, and for graded scores that do not vary.
    """
    value, error = macro_mean(scores, weights, tasks), macro_error(scores, weights, tasks, clusters)
    groups = len(np.unique(clusters))
    if np.isin(scores, (0, 1)).all():
        return wilson(value, error.se, groups, df=error.most_df)
    return t_interval(value, error.se, groups, df=error.df)


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
    """Percentile interval of `macro_mean`, by resampling clusters.

    All arrays are (n,). Differences of paired scores give the interval of a difference. The interval is too narrow if
    tasks have few clusters, because it has no small-sample factor. NaN for fewer than two clusters.
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
        # A rare task can be missing from a resample: the macro mean is then over the tasks present.
        ratios = np.divide(counts @ total, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)
        means.append(np.nanmean(ratios, axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_counts(groups: int, iterations: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each of `groups` clusters is in each of `iterations` bootstrap resamples.

    Each block is (draws, groups) and holds about a million counts, so that memory stays small with many clusters.
    """
    rng = np.random.default_rng(seed)
    block = max(1, min(iterations, 1_000_000 // groups))
    for start in range(0, iterations, block):
        draws = min(block, iterations - start)
        drawn = rng.integers(groups, size=(draws, groups)) + groups * np.arange(draws)[:, None]
        yield np.bincount(drawn.ravel(), minlength=draws * groups).reshape(draws, groups).astype(float)
