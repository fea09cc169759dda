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
    """Return `sum(w * s) / sum(w)` for (n,) scores and weights; NaN if the weights sum to 0."""
    total = np.sum(weights)
    return float(np.sum(scores * weights) / total) if total > 0 else float("nan")


def clustered_se(influence: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of an estimate, clustered, from the influence of its items.

    The variance is the sum over clusters of the squared sum of influence, with the small-sample factor G / (G - 1) for
    G clusters. With one item per cluster this is the textbook standard error s / sqrt(n).

    Args:
        influence: (n,), how far each item moves the estimate; sums to zero.
        clusters: (n,) labels; items with equal labels may depend on each other.

    Returns:
        The standard error; NaN for fewer than two clusters.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=influence)
    if len(sums) < 2:
        return float("nan")
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.sum(sums**2)))


def mean_influence(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (n,) each item's influence on the weighted mean (the delta method's linearisation of a ratio)."""
    return weights * (scores - weighted_mean(scores, weights)) / np.sum(weights)


def mean_se(scores: np.ndarray, weights: np.ndarray | None = None, clusters: np.ndarray | None = None) -> float:
    """Standard error of `weighted_mean`.

    Args:
        scores: (n,) item scores.
        weights: (n,), by default ones; denominators as weights give the ratio estimator's delta-method error.
        clusters: (n,) labels; by default each item is its own cluster.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    clusters = np.arange(len(scores)) if clusters is None else clusters
    se = clustered_se(mean_influence(scores, weights), clusters)
    return 0.0 if _is_rounding(se, scores) else se


def _is_rounding(se: float, scores: np.ndarray) -> bool:
    """Whether the standard error of (n,) scores is 0 up to rounding."""
    return len(scores) > 0 and se <= ROUNDING * float(np.abs(scores).max())


def macro_mean(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray) -> float:
    """Mean over tasks of each task's weighted mean. All arrays are (n,); `tasks` holds labels."""
    task = np.unique(tasks, return_inverse=True)[1]
    with np.errstate(invalid="ignore"):  # a task without weight has no mean
        return float(np.mean(np.bincount(task, weights=weights * scores) / np.bincount(task, weights=weights)))


class MacroError(NamedTuple):
    """Uncertainty of a `macro_mean`; all NaN if a task has fewer than two clusters.

    Attributes:
        se: standard error.
        df: Satterthwaite's degrees of freedom of the standard error.
        most_df: degrees of freedom if all tasks contributed equally to the standard error.
    """

    se: float
    df: float
    most_df: float


NO_ERROR = MacroError(float("nan"), float("nan"), float("nan"))


def macro_se(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray, clusters: np.ndarray) -> float:
    """Standard error of `macro_mean`."""
    return macro_error(scores, weights, tasks, clusters).se


def macro_error(scores: np.ndarray, weights: np.ndarray, tasks: np.ndarray, clusters: np.ndarray) -> MacroError:
    """Standard error of `macro_mean` and its degrees of freedom.

    Each task is a stratum with the small-sample factor of its own G clusters, G / (G - 1): with few items per task that
    factor is far from 1, and a factor for all clusters together would leave most of it out. A cluster's sums in several
    tasks are added before they are squared. Degrees of freedom are Satterthwaite's (1946): V^2 / sum(V_s^2 / df_s) over
    strata s, with df_s = G - 1. Tasks that share clusters form one stratum, whose df_s is Kish's effective number of
    clusters less one (Carter, Schnepel and Steigerwald 2017), because a cluster that spans all tasks adds little
    independent evidence. With one task the result is `mean_se` with G - 1.

    Args:
        scores, weights: (n,).
        tasks: (n,) labels. Tasks are fixed: the error is over other items of the same tasks.
        clusters: (n,) labels; a cluster may have items in several tasks.
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
    """Return (tasks,) the number of each task's stratum; tasks linked by clusters, directly or not, share a stratum.

    Args:
        cell_task, cell_cluster: (cells,), the task and the cluster of each combination that has items.
    """
    tasks, clusters = int(cell_task.max()) + 1, int(cell_cluster.max()) + 1
    if len(cell_task) == clusters:  # each cluster is in one task, the usual case
        return np.arange(tasks)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(cell_task)), (cell_task, tasks + cell_cluster)), shape=(tasks + clusters,) * 2)
    return connected_components(links, directed=False)[1][:tasks]
