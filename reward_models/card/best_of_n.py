"""What choosing the best of n completions by a reward brings in gold."""

import math
from collections.abc import Sequence

import numpy as np


def best_of_n(proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> list[dict]:
    """The expected proxy and gold score of the best of n by the proxy, for n = 1, 2, 4, ... and the most there are.

    All subsets of n completions count (the estimator of Nakano et al. 2021), not one draw of them.

    Args:
        proxy: of each prompt, the scores of its completions by which the best is chosen.
        gold: their true scores.

    Returns:
        [{n, proxy, gold, gold_se, kl}]: means over prompts; n ends at the fewest completions that a prompt has; kl is
        that of best of n to the policy that is sampled, log n - (n - 1) / n nats.
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
                "kl": math.log(n) - (n - 1) / n,
            }
        )
    return curve


def _expected_best(proxy: np.ndarray, gold: np.ndarray, n: int) -> tuple[float, float]:
    """Mean proxy and gold score of the best by proxy, over all subsets of n; ties share their chances alike."""
    order = np.argsort(proxy, kind="stable")
    proxy, gold = proxy[order], gold[order]
    subsets = math.comb(len(proxy), n)
    # The best of a subset is the i-th lowest of all where the others are among the i below it.
    chances = np.array([math.comb(rank, n - 1) / subsets for rank in range(len(proxy))])
    _, group = np.unique(proxy, return_inverse=True)
    chances = (np.bincount(group, chances) / np.bincount(group))[group]
    return float(chances @ proxy), float(chances @ gold)
