"""The gold score of the best of n completions, chosen by a reward."""

import math
from collections.abc import Sequence

import numpy as np


def best_of_n(proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> list[dict]:
    """The expected proxy and gold score of the best of n by the proxy, for n = 1, 2, 4, ... and the largest possible n.

    The expectation is over all subsets of n completions (the estimator of Nakano et al. 2021), not over one draw.

    Args:
        proxy: for each prompt the scores of its completions that choose the best.
        gold: the completions' true scores, likewise.

    Returns:
        [{n, proxy, gold, gold_se, kl}]: means over prompts. The largest n is the fewest completions that a prompt has;
        kl is `best_of_n_kl`.
    """
    most = min(map(len, proxy))
    sizes = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    curve = []
    for n in sizes:
        pairs = zip(proxy, gold, strict=True)
        chosen = np.array([_expected_best(np.array(one), np.array(true), n) for one, true in pairs])
        curve.append(
            {
                "n": n,
                "proxy": float(chosen[:, 0].mean()),
                "gold": float(chosen[:, 1].mean()),
                "gold_se": float(chosen[:, 1].std(ddof=1) / math.sqrt(len(chosen))) if len(chosen) > 1 else None,
                "kl": best_of_n_kl(n),
            }
        )
    return curve


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n sampling to the sampled policy, in nats: log n - (n - 1) / n, an upper bound."""
    return math.log(n) - (n - 1) / n


def _expected_best(proxy: np.ndarray, gold: np.ndarray, n: int) -> tuple[float, float]:
    """Mean proxy and gold score of the best by proxy, over all subsets of n; ties share their chances equally."""
    order = np.argsort(proxy, kind="stable")
    proxy, gold = proxy[order], gold[order]
    subsets = math.comb(len(proxy), n)
    # The i-th lowest is the best of a subset if the n - 1 others are among the i below it.
    chances = np.array([math.comb(rank, n - 1) / subsets for rank in range(len(proxy))])
    _, group = np.unique(proxy, return_inverse=True)
    chances = (np.bincount(group, chances) / np.bincount(group))[group]
    return float(chances @ proxy), float(chances @ gold)
