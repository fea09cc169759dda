"""How often the frontier calls a run over-optimised: flat gold rewards with autocorrelated noise, and real declines.

    python benchmarks/peak_false_alarms.py [--quick]

The noise of a logged reward is a first-order autoregression of standard deviation 1 with the given correlation of
neighbouring points. `flat` is that alone: the share called over-optimised should be about 0.05 or less. `hill` rises
by 4 deviations and falls back by as much, `plateau` rises by 4 and stays: nothing declines. `independent` says of the
flat curves what noise drawn anew from single residuals would.

Seed 0, 400 runs each (standard error of 0.05: 0.011), two busy cores of an Intel Xeon:

    correlation    points    flat    hill  plateau  independent
    0.0                20   0.005   0.595    0.000        0.052
    0.0                40   0.018   0.970    0.000        0.058
    0.0                80   0.035   1.000    0.005        0.060
    0.0               200   0.028   1.000    0.000        0.050
    0.5                20   0.018   0.425    0.000        0.217
    0.5                40   0.030   0.468    0.005        0.205
    0.5                80   0.028   0.920    0.000        0.230
    0.5               200   0.045   1.000    0.003        0.200
    0.9                20   0.102   0.910    0.013        0.448
    0.9                40   0.055   0.698    0.005        0.485
    0.9                80   0.015   0.415    0.000        0.472
    0.9               200   0.015   0.325    0.005        0.480
"""

import argparse
import json
import time

import numpy as np

from alignment.pipeline.records.environment import hardware
from eval.frontier.gold_peak import peak, smoother

LENGTHS, CORRELATIONS = (20, 40, 80, 200), (0.0, 0.5, 0.9)
SHAPES = ("flat", "hill", "plateau")
RISE = 4.0
TYPICAL = (40, 80, 200)  # what the recipes log: 38, 80 and 250 points
SHARE = 0.07  # 0.05 and two standard errors of 400 runs
POWER = 0.8  # on a hill, of 80 points and more with a correlation of up to 0.5


def noise(length: int, correlation: float, runs: int, rng: np.random.Generator) -> np.ndarray:
    """(runs, length) of variance 1, stationary."""
    values = rng.normal(size=(runs, length))
    for place in range(1, length):
        values[:, place] = correlation * values[:, place - 1] + (1 - correlation**2) ** 0.5 * values[:, place]
    return values


def curve(shape: str, length: int) -> np.ndarray:
    x = np.linspace(-1, 1, length)
    return {"flat": np.zeros(length), "hill": RISE * (1 - x**2), "plateau": RISE * np.minimum(0, x)}[shape]


def called(shape: str, length: int, correlation: float, runs: int, draws: int, seed: int) -> float:
    """The share of runs that `peak` calls over-optimised."""
    steps = np.arange(1, length + 1) * 4
    golds = curve(shape, length) + noise(length, correlation, runs, np.random.default_rng(seed))
    return float(
        np.mean([peak(steps, gold, draws=draws, seed=run)["over_optimised"] for run, gold in enumerate(golds)])
    )


def called_by_residuals(length: int, correlation: float, runs: int, draws: int, seed: int) -> float:
    """The same of flat curves, were the noise drawn anew from single residuals of the smoothed curve."""
    rng, steps = np.random.default_rng(seed), np.arange(1, length + 1) * 4.0
    matrix = smoother(steps, (steps[-1] - steps[0]) / 6)
    found = []
    for gold in noise(length, correlation, runs, rng):
        smooth = matrix @ gold
        residuals = (gold - smooth) / np.sqrt(np.clip(1 - np.diag(matrix), 0.1, None))
        drawn = rng.choice(residuals - residuals.mean(), (draws, length)) @ matrix.T
        found.append(np.mean(drawn.max(axis=1) - drawn[:, -1] >= smooth.max() - smooth[-1]) <= 0.05)
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400, help="simulated runs for each figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the figures mean nothing")
    args = parser.parse_args()
    runs, draws, lengths = (4, 50, (20,)) if args.quick else (args.runs, 300, LENGTHS)
    started, figures = time.perf_counter(), {}
    print(f"share of {runs} runs called over-optimised (seed {args.seed})\n")
    print(f"{'correlation':14}{'points':>7}{'flat':>8}{'hill':>8}{'plateau':>9}{'independent':>13}")
    for correlation in CORRELATIONS:
        for length in lengths:
            shares = {shape: called(shape, length, correlation, runs, draws, args.seed) for shape in SHAPES}
            shares["independent"] = called_by_residuals(length, correlation, runs, draws, args.seed)
            figures[f"{correlation}, {length} points"] = shares
            shown = "".join(f"{share:>{width}.3f}" for share, width in zip(shares.values(), (8, 8, 9, 13), strict=True))
            print(f"{correlation:<14}{length:>7}{shown}", flush=True)
    flat = [figures[f"{c}, {n} points"]["flat"] for c in CORRELATIONS for n in lengths if n in TYPICAL]
    hill = [figures[f"{c}, {n} points"]["hill"] for c in CORRELATIONS[:2] for n in lengths if n in TYPICAL[1:]]
    result = {
        "figures": figures,
        "targets": {
            f"flat curves of {TYPICAL} points called over-optimised, at most": SHARE,
            f"hills of {TYPICAL[1:]} points with a correlation of up to 0.5 found, at least": POWER,
        },
        "met": max(flat, default=1.0) <= SHARE and min(hill, default=0.0) >= POWER,
    }
    print(json.dumps(result | {"seconds": round(time.perf_counter() - started), "machine": hardware()}))


if __name__ == "__main__":
    main()
