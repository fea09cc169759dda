"""The frontier of a run: proxy and gold reward by the distance from the reference.

The distance is d = sqrt(KL), with KL in nats per completion (Gao, Schulman & Hilton 2022, "Scaling Laws for Reward
Model Overoptimization", arXiv 2210.10760). eval/frontier/points.py makes the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from eval.frontier.gold_peak import peak, require_points
from eval.frontier.scaling_fits import fit


@dataclass(frozen=True)
class Point:
    """A checkpoint or a logged step.

    Attributes:
        step: optimizer step; 0 is the reference.
        kl: KL to the reference in nats per completion; an estimate, which may fall below 0.
        proxy: mean of the reward trained on.
        gold: mean of the gold reward, which the proxy approximates; None if unknown.
        proxy_se, gold_se: standard errors of proxy and gold; None if unknown.
    """

    step: int
    kl: float
    proxy: float
    gold: float | None = None
    proxy_se: float | None = None
    gold_se: float | None = None

    @property
    def distance(self) -> float:
        """Square root of the KL."""
        return max(self.kl, 0.0) ** 0.5


def frontier(points: Sequence[Point], form: str = "rl") -> dict:
    """Analyse a run's points: the peak of gold, and the fits of both rewards.

    Args:
        points: at least FEWEST_POINTS, in any order.
        form: the form of the fits: rl or best_of_n.

    Returns:
        JSON values: {points: [{step, kl, distance, proxy, gold, proxy_se, gold_se, gold_smoothed}], peak: `peak` with
        the distance and KL of the peak and the distances of its interval, or None without gold; fits: [`fit` and {of:
        proxy or gold}]}.
    """
    points = sorted(points, key=lambda point: point.step)
    require_points(len(points))
    rows = [asdict(point) | {"distance": point.distance, "gold_smoothed": None} for point in points]
    found = None
    if all(point.gold is not None for point in points):
        errors = [point.gold_se for point in points]
        found = peak(
            np.array([point.step for point in points]),
            np.array([point.gold for point in points]),
            None if None in errors else np.array(errors, dtype=float),
        )
        for row, value in zip(rows, found.pop("smoothed"), strict=True):
            row["gold_smoothed"] = value
        at = {row["step"]: row["distance"] for row in rows}
        top = rows[found["index"]]
        found |= {"distance": top["distance"], "kl": top["kl"]}
        found |= {"low_distance": at[found["low"]], "high_distance": at[found["high"]]}
    fits = []
    for name in ("proxy", "gold") if found else ("proxy",):
        distance, reward = (np.array([row[key] for row in rows]) for key in ("distance", name))
        if fitted := fit(distance, reward, form):
            fits.append({"of": name} | fitted)
    return {"points": rows, "peak": found, "fits": fits}
