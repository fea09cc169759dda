"""Standard errors, intervals and tests for eval scores: pure functions of numpy arrays.

Every figure here is a weighted mean of item scores, `sum(w * s) / sum(w)`: an accuracy has weights of one, bits per
byte weighs each document by its bytes (a ratio estimator). Items of one cluster (questions about one entity, say) are
not independent, so standard errors sum over clusters first (Miller 2024, "Adding Error Bars to Evals").

Intervals are Student's t with one degree of freedom less than there are clusters, for a mean over tasks with
Satterthwaite's. Of the intervals tried in benchmarks/interval_coverage.py it comes nearest to the 95% that it claims;
the percentile bootstrap falls short below 40 clusters. (Bootstrap-t, tried and left out, covered as well, but 78% where
few items changed.) The mean of one model's right-or-wrong scores has Wilson's interval instead.

A standard error of 0 is no evidence: the clusters do not show how much they vary. It gives no interval and no p-value.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-9  # of the largest score: a smaller standard error counts as 0


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
    se = clustered_se(mean_influence(scores, weights), clusters)
    return 0.0 if _is_rounding(se, scores) else se


def _is_rounding(se: float, scores: np.ndarray) -> bool:
    """Whether a standard error of (n,) scores is what rounding left of 0."""
    return len(scores) > 0 and se <= ROUNDING * float(np.abs(scores).max())


def macro_mean(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray) -> float:
    """Mean over tasks of the tasks' weighted means. All arrays (n,); `tasks` holds labels."""
    task = np.unique(tasks, return_inverse=True)[1]
    with np.errstate(invalid="ignore"):  # a task without weight has no mean
        return float(np.mean(np.bincount(task, weights=weights * scores) / np.bincount(task, weights=weights)))


class MacroError(NamedTuple):
    """How uncertain a `macro_mean` is; all NaN where a task has fewer than two clusters.

    Attributes:
        se: standard error.
        df: Satterthwaite's degrees of freedom of the standard error.
        most_df: the degrees of freedom if every task added as much to the standard error as every other.
    """

    se: float
    df: float
    most_df: float


NO_ERROR = MacroError(float("nan"), float("nan"), float("nan"))


def macro_se(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of `macro_mean`: that of `macro_error`."""
    return macro_error(scores, weights, tasks, clusters).se


def macro_error(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray, clusters: np.ndarray) -> MacroError:
    """Standard error of `macro_mean` and its degrees of freedom.

    Args:
        scores, weights: (n,).
        tasks: (n,) labels. Tasks are fixed: the error is over other items of the same tasks.
        clusters: (n,) labels; a cluster may have items in several tasks.

    Each task is a stratum with the small-sample factor of its own G clusters, G / (G - 1): with few items a task that
    factor is far from 1, and a factor of all clusters together leaves most of it out. A cluster's sums in several tasks
    are added before they are squared. Degrees of freedom are Satterthwaite's (1946): V^2 / sum(V_s^2 / df_s) over
    strata s, with df_s = G - 1. Tasks that share clusters are one stratum, whose df_s is one less than Kish's effective
    number of its clusters (Carter, Schnepel and Steigerwald 2017), so that one cluster in all tasks counts as little as
    it is worth. With one task it is `mean_se` with G - 1.
    """
    task = np.unique(tasks, return_inverse=True)[1]
    cluster = np.unique(clusters, return_inverse=True)[1]
    if not len(task):
        return NO_ERROR
    count = int(task.max()) + 1
    total = np.bincount(task, weights=weights, minlength=count)
    means = np.bincount(task, weights=weights * scores, minlength=count) / total
    share = weights / total[task] / count
    cells, cell = np.unique(cluster * count + task, return_inverse=True)
    cell_cluster, cell_task = np.divmod(cells, count)
    held = np.bincount(cell_task, minlength=count)  # clusters of each task
    if held.min() < 2:
        return NO_ERROR
    sums = np.bincount(cell, weights=share * (scores - means[task]))
    by_cluster = np.bincount(cell_cluster, weights=sums * np.sqrt(held / (held - 1))[cell_task])
    stratum = _linked_tasks(cell_task, cell_cluster)
    of_cluster = np.empty(len(by_cluster), dtype=int)
    of_cluster[cell_cluster] = stratum[cell_task]
    variances = np.bincount(of_cluster, weights=by_cluster**2)
    freedom = np.bincount(stratum, weights=held - 1.0)
    size = np.bincount(cell_cluster, weights=np.bincount(cell, weights=share))
    effective = np.bincount(of_cluster, weights=size**2) ** 2 / np.bincount(of_cluster, weights=size**4)
    linked = np.bincount(stratum) > 1
    freedom[linked] = np.maximum(1.0, np.minimum(effective - 1, freedom)[linked])
    variance = float(variances.sum())
    if _is_rounding(variance**0.5, scores):
        return MacroError(0.0, float("nan"), float(freedom.sum()))
    return MacroError(variance**0.5, variance**2 / float(np.sum(variances**2 / freedom)), float(freedom.sum()))


def _linked_tasks(cell_task: np.ndarray, cell_cluster: np.ndarray) -> np.ndarray:
    """(tasks,): the number of each task's stratum; tasks that share a cluster, directly or by others, share it.

    Args:
        cell_task, cell_cluster: the pairs of a task and a cluster that have items.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    tasks, clusters = int(cell_task.max()) + 1, int(cell_cluster.max()) + 1
    if len(cell_task) == clusters:  # each cluster is in one task, the usual case
        return np.arange(tasks)
    links = coo_array((np.ones(len(cell_task)), (cell_task, tasks + cell_cluster)), shape=(tasks + clusters,) * 2)
    return connected_components(links, directed=False)[1][:tasks]


def t_interval(
    value: float, se: float, clusters: int, *, df: float | None = None, level: float = 0.95
) -> tuple[float, float]:
    """`value` -+ the t quantile times `se`; NaN for fewer than two clusters, and where `se` is 0 or unknown.

    Args:
        clusters: how many there are; the degrees of freedom are one less, unless `df` says how many they are.
    """
    from scipy.stats import t

    if clusters < 2 or not se > 0:
        return float("nan"), float("nan")
    reach = float(t.ppf((1 + level) / 2, clusters - 1 if df is None else df)) * se
    return value - reach, value + reach


def wilson(
    rate: float, se: float, clusters: int, level: float = 0.95, *, df: float | None = None
) -> tuple[float, float]:
    """Wilson's interval of a rate for as many independent outcomes as give its standard error, at Student's quantile.

    Where the standard error is 0 it says nothing: there are then as many outcomes as clusters. NaN for fewer than two
    clusters, and where the standard error is unknown.

    Args:
        df: degrees of freedom; by default one less than clusters.
    """
    from scipy.stats import t

    if clusters < 2 or np.isnan(se):
        return float("nan"), float("nan")
    size = rate * (1 - rate) / se**2 if se > 0 else clusters
    z2 = t.ppf((1 + level) / 2, clusters - 1 if df is None else df) ** 2 / size
    centre = (rate + z2 / 2) / (1 + z2)
    half = float(np.sqrt(z2 * (rate * (1 - rate) + z2 / 4))) / (1 + z2)
    return max(0.0, float(centre) - half), min(1.0, float(centre) + half)


def macro_interval(
    scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray, clusters: np.ndarray
) -> tuple[float, float]:
    """95% interval of one model's `macro_mean`: Wilson's of right-or-wrong scores, else Student's t. All arrays (n,).

    A mean near 0 or 1 varies the less the nearer it is, so that a symmetric interval falls short on one side. NaN where
    a task has fewer than two clusters, and of graded scores that do not vary.
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
    """Percentile interval of `macro_mean` (of the plain weighted mean where there is one task), resampling clusters.

    All arrays (n,). Differences of paired scores give the interval of a difference. NaN for fewer than two clusters. It
    is too narrow where tasks have few clusters, as it has no small-sample factor.
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


def t_test_p(delta: float, se: float, clusters: int, *, df: float | None = None) -> float:
    """Two-sided p-value of `delta / se` under Student's t.

    NaN where there is no test: fewer than two clusters, or a standard error of 0 (every cluster says the same, which
    does not show how much others differ) or unknown.

    Args:
        clusters: how many there are; the degrees of freedom are one less, unless `df` says how many they are.
    """
    from scipy.stats import t

    if clusters < 2 or not se > 0:
        return float("nan")
    return float(2 * t.sf(abs(delta) / se, clusters - 1 if df is None else df))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: reject where the adjusted value is at most alpha.

    A NaN is no test: it stays NaN and does not count among the others.
    """
    found = np.asarray(p_values, dtype=float)
    order = np.argsort(found, kind="stable")[: int(np.sum(~np.isnan(found)))]
    scaled = found[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(found), np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if len(order) else scaled
    return adjusted.tolist()


def minimum_detectable_effect(
    se: float, clusters: int, *, df: float | None = None, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true difference that a two-sided t-test at `alpha` finds with probability `power`.

    With many clusters 2.8 standard errors, with ten 3.1 (t quantiles of `clusters - 1` degrees of freedom, or of `df`).
    NaN where the standard error is 0 or unknown: where nothing changed, these items do not say how much they vary.
    """
    from scipy.stats import t

    if not se > 0:
        return float("nan")
    df = clusters - 1 if df is None else df
    return float((t.ppf(1 - alpha / 2, df) + t.ppf(power, df)) * se)
