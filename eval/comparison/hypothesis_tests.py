"""Hypothesis tests of paired eval scores, and the effect that they can detect: pure functions of numpy arrays."""

import numpy as np


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
