"""How often a 95% interval of a paired difference holds the true one, by number of clusters and by kind of interval.

Pairs of checkpoints are simulated: 200 items answered right or wrong, items of one cluster alike in how hard they are
and in what a checkpoint makes of them, the two checkpoints alike in both. An item is right where a normal variable is
above zero (cluster + checkpoint's own cluster + item + checkpoint's own item), so the true difference is known.

    python benchmarks/interval_coverage.py [--quick]

`macro means` are means over tasks with few items each, of tasks that differ in difficulty: the interval of a paired
difference, of one model's mean, and for comparison the difference's with one small-sample factor for all clusters.

`tests` at the end says how often each test calls two checkpoints of equal accuracy different at 0.05.

Seed 0, 1,000 pairs each, two cores of an Intel Xeon, 2026-11-22, 41 seconds:

    equal clusters; clusters:       4      5      8     10     20     40    100    200
      t                         0.953  0.952  0.944  0.945  0.950  0.949  0.942  0.963
      normal                    0.835  0.878  0.904  0.908  0.940  0.947  0.942  0.963
      percentile bootstrap      0.791  0.820  0.884  0.883  0.930  0.936  0.940  0.955
      t, clusters ignored       0.513  0.559  0.666  0.706  0.816  0.887  0.929  0.963

    unequal clusters; clusters:     4      5      8     10     20     40    100    200
      t                         0.931  0.926  0.925  0.931  0.944  0.945  0.954  0.953
      normal                    0.814  0.851  0.888  0.895  0.931  0.940  0.951  0.952
      percentile bootstrap      0.779  0.839  0.876  0.884  0.923  0.930  0.943  0.946
      t, clusters ignored       0.477  0.542  0.620  0.654  0.758  0.864  0.931  0.949

    few changes; clusters:          4      5      8     10     20     40    100    200
      t                         0.960  0.952  0.930  0.912  0.933  0.939  0.937  0.947
      normal                    0.853  0.858  0.889  0.894  0.927  0.937  0.924  0.931
      percentile bootstrap      0.799  0.831  0.872  0.866  0.906  0.918  0.913  0.926
      t, clusters ignored       0.856  0.856  0.896  0.894  0.928  0.942  0.939  0.947

    tests; clusters:                4      5      8     10     20     40    100    200
      exact, by cluster         0.000  0.000  0.034  0.042  0.037  0.033  0.046  0.045
      t, by cluster             0.042  0.048  0.048  0.055  0.046  0.047  0.057  0.058
      McNemar, clusters ignored 0.453  0.397  0.277  0.262  0.155  0.082  0.049  0.045

Seed 0, 3,000 pairs each, two busy cores; standard error of a figure 0.004:

    macro means, rate 0.5       15x84   57x5   57x3   57x2   57x1
      difference                0.953  0.951  0.956  0.969   none
      one model                 0.945  0.955  0.953  0.961   none
      pooled factor             0.952  0.919  0.891  0.842   none

    macro means, rate 0.8       15x84   57x5   57x3   57x2   57x1
      difference                0.959  0.953  0.953  0.972   none
      one model                 0.951  0.955  0.956  0.956   none
      pooled factor             0.958  0.925  0.888  0.829   none

    macro means, rate 0.95      15x84   57x5   57x3   57x2   57x1
      difference                0.950  0.963  0.968  0.985   none
      one model                 0.961  0.958  0.964  0.972   none
      pooled factor             0.948  0.919  0.874  0.804   none
"""

import argparse
import json
import time

import numpy as np
from scipy.stats import norm, t

from alignment.pipeline.records.environment import hardware
from eval.comparison.hypothesis_tests import mcnemar_clustered, mcnemar_exact, t_test_p
from eval.comparison.intervals import bootstrap_ci, macro_interval, t_interval
from eval.comparison.standard_errors import clustered_se, macro_error, mean_se, weighted_mean

ITEMS, CLUSTERS = 200, (4, 5, 8, 10, 20, 40, 100, 200)
# Spread of: what both checkpoints make of a cluster, what each does, what both make of an item, what each does.
SPREADS = {"usual": (0.6, 0.4, 1.0, 0.5), "few changes": (0.6, 0.05, 1.0, 0.05)}
MEANS = {"usual": (0.0, 0.3), "few changes": (0.0, 0.05)}
MACRO = ((15, 84), (57, 5), (57, 3), (57, 2), (57, 1))  # tasks, items of each
RATES = (0.5, 0.8, 0.95)
MACRO_KINDS = ("difference", "one model", "pooled factor")
CLAIMED = ((15, 84), (57, 5), (57, 3))
CASES = {
    "equal clusters": ("usual", "equal"),
    "unequal clusters": ("usual", "unequal"),
    "few changes": ("few changes", "equal"),
}


def cluster_labels(clusters: int, sizes: str) -> np.ndarray:
    """(items,): labels of clusters of one size, or of sizes that grow from the first to the last."""
    if sizes == "equal":
        return np.arange(ITEMS) * clusters // ITEMS
    share = np.arange(1, clusters + 1) / np.sum(np.arange(1, clusters + 1))
    return np.repeat(np.arange(clusters), np.maximum(1, np.round(share * ITEMS)).astype(int))


def simulate(
    labels: np.ndarray, pairs: int, seed: int, *, means: tuple[float, float], spreads: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray, float]:
    """0/1 scores (pairs, items) of checkpoints a and b, and the true difference of their accuracies."""
    rng = np.random.default_rng(seed)
    both_cluster, own_cluster, both_item, own_item = spreads
    clusters = labels.max() + 1
    shared = both_cluster * rng.normal(size=(pairs, clusters))[:, labels]
    shared = shared + both_item * rng.normal(size=(pairs, len(labels)))
    scores = []
    for mean in means:
        own = own_cluster * rng.normal(size=(pairs, clusters))[:, labels]
        own = own + own_item * rng.normal(size=(pairs, len(labels)))
        scores.append((mean + shared + own > 0).astype(float))
    spread = np.sqrt(np.sum(np.square(spreads)))
    return *scores, float(norm.cdf(means[1] / spread) - norm.cdf(means[0] / spread))


def intervals(change: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    """The 95% intervals of one pair's difference, by kind. `t` is the one that `align compare` prints."""
    ones, one_task = np.ones(len(change)), np.zeros(len(change))
    clusters = len(np.unique(labels))
    value, se = weighted_mean(change, ones), mean_se(change, clusters=labels)
    return {
        "t": t_interval(value, se, clusters),
        "normal": (value - 1.96 * se, value + 1.96 * se),
        "percentile bootstrap": bootstrap_ci(change, ones, one_task, labels, seed=seed, iterations=1000),
        "t, clusters ignored": t_interval(value, mean_se(change), len(change)),
    }


def coverage(clusters: int, pairs: int, seed: int, *, spread: str = "usual", sizes: str = "equal") -> dict[str, float]:
    """By kind of interval, the share of simulated pairs whose interval holds the true difference."""
    labels = cluster_labels(clusters, sizes)
    a, b, truth = simulate(labels, pairs, seed, means=MEANS[spread], spreads=SPREADS[spread])
    found = [intervals(change, labels, seed + row) for row, change in enumerate(b - a)]
    return {
        kind: float(np.mean([one[kind][0] <= truth <= one[kind][1] for one in found]))
        for kind in ("t", "normal", "percentile bootstrap", "t, clusters ignored")
    }


def false_alarms(clusters: int, pairs: int, seed: int) -> dict[str, float]:
    """By test, the share of pairs of equally accurate checkpoints with p <= 0.05."""
    labels = cluster_labels(clusters, "equal")
    a, b, _ = simulate(labels, pairs, seed, means=(0.3, 0.3), spreads=SPREADS["usual"])
    tests = {
        "exact, by cluster": lambda x, y: mcnemar_clustered(y - x, labels),
        "t, by cluster": lambda x, y: t_test_p((y - x).mean(), mean_se(y - x, clusters=labels), clusters),
        "McNemar, clusters ignored": mcnemar_exact,
    }
    return {
        name: float(np.mean([test(x, y) <= 0.05 for x, y in zip(a, b, strict=True)])) for name, test in tests.items()
    }


def macro_coverage(tasks: int, items: int, rate: float, pairs: int, seed: int) -> dict[str, float | None]:
    """By kind of interval of a mean over tasks, the share of pairs whose interval holds the truth; None: no interval.

    Args:
        tasks, items: how many tasks, and items of each.
        rate: about how often checkpoint a is right; b is right a little more often. Their answers to an item correlate
            by 0.5 to 0.6.
    """
    rng = np.random.default_rng(seed)
    spread, levels = np.hypot(1.0, 0.5), 0.5 * norm.ppf((np.arange(tasks) + 0.5) / tasks)
    both, labels = rng.normal(size=(pairs, tasks, items)), np.repeat(np.arange(tasks), items)
    centre = norm.ppf(rate) * np.hypot(spread, 0.5)
    means = [centre + shift + levels[:, None] for shift in (0.0, 0.1)]
    a, b = ((m + both + 0.5 * rng.normal(size=both.shape) > 0).astype(float).reshape(pairs, -1) for m in means)
    truth_a, truth_b = (float(norm.cdf(m / spread).mean()) for m in means)
    ones, own = np.ones(tasks * items), np.arange(tasks * items)
    held: dict[str, list[bool]] = {kind: [] for kind in MACRO_KINDS}
    for change, scores in zip(b - a, a, strict=True):
        error = macro_error(change, ones, labels, own)
        if np.isnan(error.se):
            return dict.fromkeys(MACRO_KINDS)
        value = float(change.mean())
        by_task = change.reshape(tasks, items)
        influence = (by_task - by_task.mean(axis=1, keepdims=True)).ravel() / len(own)
        reach = t.ppf(0.975, len(own) - 1) * clustered_se(influence, own)
        found = {
            "difference": t_interval(value, error.se, len(own), df=error.df),
            "one model": macro_interval(scores, ones, labels, own),
            "pooled factor": (value - reach, value + reach),
        }
        for kind, (low, high) in found.items():
            held[kind].append(low <= (truth_a if kind == "one model" else truth_b - truth_a) <= high)
    return {kind: float(np.mean(one)) for kind, one in held.items()}


def table(title: str, by_clusters: dict[int, dict[str, float]]) -> str:
    kinds = list(next(iter(by_clusters.values())))
    lines = [f"{title:26}" + "".join(f"{clusters:>7}" for clusters in by_clusters)]
    for kind in kinds:
        shares = ["   none" if row[kind] is None else f"{row[kind]:>7.3f}" for row in by_clusters.values()]
        lines.append(f"  {kind:24}" + "".join(shares))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000, help="simulated pairs for each figure")
    parser.add_argument("--macro_pairs", type=int, default=3000, help="simulated pairs for each figure of a macro mean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    args = parser.parse_args()
    pairs, macro_pairs = (10, 10) if args.quick else (args.pairs, args.macro_pairs)
    started, figures = time.perf_counter(), {}
    print(
        f"{ITEMS} items, {pairs} pairs each (seed {args.seed}); 0.95 of 1,000 pairs is +- 0.007 (one standard error)\n"
    )
    for title, (spread, sizes) in CASES.items():
        figures[title] = {g: coverage(g, pairs, args.seed, spread=spread, sizes=sizes) for g in CLUSTERS}
        print(table(f"{title}; clusters:", figures[title]) + "\n")
    figures["tests"] = {g: false_alarms(g, pairs, args.seed) for g in CLUSTERS}
    print(table("tests; clusters:", figures["tests"]))
    for rate in RATES:
        shares = {(m, n): macro_coverage(m, n, rate, macro_pairs, args.seed) for m, n in MACRO}
        figures[f"macro means, {rate}"] = {f"{m}x{n}": share for (m, n), share in shares.items()}
        print("\n" + table(f"macro means, rate {rate}", figures[f"macro means, {rate}"]))
    claimed = {
        f"{kind} of {m}x{n}, rate {rate}": figures[f"macro means, {rate}"][f"{m}x{n}"][kind]
        for kind in ("difference", "one model")
        for m, n in CLAIMED
        for rate in RATES
    }
    held = {"t at 40 clusters": figures["equal clusters"][40]["t"]} | claimed
    none = [figures[f"macro means, {rate}"]["57x1"]["difference"] for rate in RATES]
    result = {
        "figures": figures,
        "targets": {f"coverage of {name}": [0.93, 0.97] for name in held} | {"57x1": "no interval"},
        "met": all(0.93 <= share <= 0.97 for share in held.values()) and none == [None] * len(none),
    }
    print(json.dumps(result | {"seconds": round(time.perf_counter() - started), "machine": hardware()}))


if __name__ == "__main__":
    main()
