"""Means of eval scores and their standard errors: pure functions of numpy arrays.

Every figure is a weighted mean of item scores, `sum(w * s) / sum(w)`: an accuracy has weights of one, bits per byte
weighs each document by its bytes (a ratio estimator). Items of one cluster (for example questions about one entity)
are not independent, so standard errors sum over clusters first (Miller 2024, "Adding Error Bars to Evals").

A standard error of 0 is no evidence: the clusters do not show how much they vary. It gives no interval and no p-value.
"""

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
