"""Hypothesis tests of paired eval scores, and the effect that they can detect: pure functions of numpy arrays.

Student's t is taken from scipy.special, which scipy.stats calls for it: scipy.stats takes most of a second to import.
"""

import numpy as np


def mcnemar_exact(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided exact McNemar p-value for two (n,) 0/1 arrays on the same items; 1.0 if no item changed."""
    from scipy.stats import binomtest

    fixed, regressed = int(np.sum((a == 0) & (b == 1))), int(np.sum((a == 1) & (b == 0)))
    return float(binomtest(fixed, fixed + regressed, 0.5).pvalue) if fixed + regressed else 1.0


def mcnemar_clustered(change: np.ndarray, clusters: np.ndarray) -> float:
    """Two-sided exact p-value for paired 0/1 scores whose items depend on each other within a cluster.

    McNemar's test assumes independent items, and with clusters it rejects too often. This test flips the sign of whole
    clusters: if the two checkpoints are equal, a cluster's sum of changes is as likely as its opposite. The sums are
    whole numbers, so the distribution of their total over all sign changes is counted, not sampled. With one item per
    cluster it is the exact McNemar test. It assumes nothing about the items within a cluster, nor about the number of
    clusters (Canay, Romano and Shaikh 2017); with fewer than six changed clusters no p-value can reach 0.05.

    Args:
        change: (n,) of -1 (regressed), 0 or 1 (fixed).
        clusters: (n,) labels.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.abs(np.bincount(index, weights=change)).round().astype(int)
    reach = int(np.sum(sums))
    chance = np.zeros(2 * reach + 1)  # probabilities of the totals -reach ... reach
    chance[reach] = 1.0
    for size in sums[sums > 0]:
        chance = 0.5 * (np.roll(chance, size) + np.roll(chance, -size))
    totals = np.abs(np.arange(-reach, reach + 1))
    return float(min(1.0, np.sum(chance[totals >= abs(round(float(np.sum(change))))])))


def t_test_p(delta: float, se: float, clusters: int, *, df: float | None = None) -> float:
    """Two-sided p-value of `delta / se` under Student's t.

    Args:
        clusters: number of clusters.
        df: degrees of freedom; by default the number of clusters less one.

    Returns:
        The p-value; NaN if there is no test: fewer than two clusters, or a standard error of NaN or 0 (all clusters
        changed alike, which does not show how much others would differ).
    """
    from scipy.special import stdtr

    if clusters < 2 or not se > 0:
        return float("nan")
    return float(2 * stdtr(clusters - 1 if df is None else df, -abs(delta) / se))


def holm(p_values: list[float]) -> list[float]:
    """P-values after Holm's step-down adjustment, in the given order: reject if the adjusted value is at most alpha.

    A NaN stands for no test: it stays NaN and is not counted.
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
    """Smallest true difference that a two-sided t-test at `alpha` detects with probability `power`.

    With many clusters it is 2.8 standard errors, with ten clusters 3.1 (t quantiles with `clusters - 1` degrees of
    freedom, or `df`). NaN if the standard error is 0 or NaN: if nothing changed, the items do not show how much they
    vary.
    """
    from scipy.special import stdtrit

    if not se > 0:
        return float("nan")
    df = clusters - 1 if df is None else df
    return float((stdtrit(df, 1 - alpha / 2) + stdtrit(df, power)) * se)
