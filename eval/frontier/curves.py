"""Reward against the distance that a run has gone: proxy and gold over the KL to the reference, and where gold peaks.

The distance is d = sqrt(KL), in the root of nats a completion (Gao, Schulman & Hilton 2022, "Scaling Laws for Reward
Model Overoptimization", arXiv 2210.10760). Pure functions of numpy arrays; eval/frontier/points.py makes the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from alignment.errors import UserError

# R(d) - R(0) = d (alpha - beta g(d)): g is the form's.
FORMS = {"best_of_n": lambda d: d, "rl": lambda d: np.log(np.maximum(d, 1e-300))}
FEWEST_POINTS = 4
CORRELATION_TIMES = 20  # how many are tried, from a quarter of a point to the length of the run


@dataclass(frozen=True)
class Point:
    """A checkpoint or a logged step.

    Attributes:
        step: optimizer step; 0 is the reference.
        kl: to the reference, nats a completion; an estimate, which may fall below 0.
        proxy: mean of the reward that is trained on.
        gold: mean of the reward that it stands for; None where it is not known.
        proxy_se, gold_se: their standard errors; None where they are not known.
    """

    step: int
    kl: float
    proxy: float
    gold: float | None = None
    proxy_se: float | None = None
    gold_se: float | None = None

    @property
    def distance(self) -> float:
        return max(self.kl, 0.0) ** 0.5


def smoother(steps: np.ndarray, width: float) -> np.ndarray:
    """(n, n) matrix of local linear regression with Gaussian weights: `smoother(steps, width) @ values` is smooth.

    Args:
        steps: (n,), all different.
        width: standard deviation of the weights, in steps.
    """
    offsets = steps[None, :] - steps[:, None]
    weights = np.exp(-0.5 * (offsets / width) ** 2)
    moments = [np.sum(weights * offsets**power, axis=1, keepdims=True) for power in range(3)]
    rows = weights * (moments[2] - offsets * moments[1])
    return rows / rows.sum(axis=1, keepdims=True)


def peak(
    steps: np.ndarray,
    gold: np.ndarray,
    gold_se: np.ndarray | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict:
    """Where the smoothed gold reward is highest, and whether it has fallen since.

    The smoothing is over steps, a sixth of the run wide (or as wide as points lie apart, if that is more). The noise of
    the points is drawn anew: from their standard errors where they are given, else by `correlated_noise`, for the
    points of one training run are alike where they are near.

    Args:
        steps, gold: (n,), n >= 4, steps rising.
        gold_se: (n,), standard errors of gold; points with them (checkpoints) are taken to be independent.

    Returns:
        {index, step, gold, low, high, fall, fall_p, over_optimised, smoothed: list of n}. [low, high] are steps, the
        interval of the highest place. `fall` is smoothed gold at the peak less that at the end. As a peak is chosen for
        being high, noise alone makes a fall: `fall_p` is how often noise around a flat curve makes one as large, and
        the run is `over_optimised` where that is at most 1 - level.
    """
    require_points(len(steps))
    width = max((steps[-1] - steps[0]) / 6, float(np.median(np.diff(steps))))
    matrix = smoother(steps.astype(float), width)
    smooth = matrix @ gold
    rng = np.random.default_rng(seed)
    if gold_se is None:
        noise = correlated_noise(steps.astype(float), gold, draws, rng)
    else:
        noise = rng.normal(size=(draws, len(gold))) * gold_se
    noise = noise @ matrix.T
    top = int(np.argmax(smooth))
    places = steps[(smooth + noise).argmax(axis=1)]
    low, high = np.quantile(places, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    fall = float(smooth[top] - smooth[-1])
    rounding = 1e-9 * float(np.abs(gold).max())
    fall_p = float(np.mean(noise.max(axis=1) - noise[:, -1] >= fall - rounding))
    return {
        "index": top,
        "step": int(steps[top]),
        "gold": float(smooth[top]),
        "low": int(low),
        "high": int(high),
        "fall": fall,
        "fall_p": fall_p,
        "over_optimised": fall_p <= 1 - level,
        "smoothed": smooth.tolist(),
    }


def correlated_noise(steps: np.ndarray, gold: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, n): noise like that of a curve about its trend, with what is not known of it drawn too.

    Args:
        steps, gold: (n,), n >= 4, steps rising.

    The trend is a parabola (a line, of fewer than 7 points), the noise a first-order autoregression over steps: its
    correlation falls as exp(-distance / time). Residuals of a flexible curve show too little of a slow noise, as the
    curve follows it. So the time comes from the restricted likelihood, which allows for the fitted trend, and as few
    points say little of it, each draw has a time and a variance of their posterior (all times on a logarithmic scale
    alike before, up to the length of the run).
    """
    gaps = np.abs(steps[:, None] - steps[None, :]) / np.median(np.diff(steps))
    trend = np.vander((steps - steps.mean()) / np.ptp(steps), min(3, 1 + (len(steps) - 1) // 3))
    times = np.geomspace(0.25, max(gaps.max(), 2.0), CORRELATION_TIMES)
    roots = [np.linalg.cholesky(np.exp(-gaps / time) + 1e-10 * np.eye(len(steps))) for time in times]
    freedom = len(steps) - trend.shape[1]
    fitted = [_restricted(root, trend, gold) for root in roots]
    squares = np.array([max(square, 1e-300) for square, _ in fitted])
    likelihood = np.array([rest for _, rest in fitted]) - freedom / 2 * np.log(squares)
    posterior = np.exp(likelihood - likelihood.max())
    drawn = rng.choice(len(times), size=draws, p=posterior / posterior.sum())
    sizes = np.sqrt(squares[drawn] / rng.chisquare(freedom, size=draws))[:, None]
    noise = rng.normal(size=(draws, len(steps))) * sizes
    for place in np.unique(drawn):
        noise[drawn == place] = noise[drawn == place] @ roots[place].T
    return noise


def _restricted(root: np.ndarray, trend: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Of values with a correlation: the sum of squares about the trend, and the rest of the restricted log-likelihood.

    Args:
        root: (n, n) Cholesky factor of the correlation.
        trend: (n, k) columns of the trend.
        values: (n,).
    """
    from scipy.linalg import solve_triangular

    white = solve_triangular(root, np.column_stack([trend, values]), lower=True)
    q, r = np.linalg.qr(white[:, :-1])
    residuals = white[:, -1] - q @ (q.T @ white[:, -1])
    return float(residuals @ residuals), -float(np.log(np.diag(root)).sum() + np.log(np.abs(np.diag(r))).sum())


def fit(distance: np.ndarray, reward: np.ndarray, form: str) -> dict | None:
    """Least squares of R(d) = start + d (alpha - beta g(d)), with g(d) = d (best_of_n) or log d (rl).

    The paper counts rewards from 0 at d = 0; here the start is a third coefficient, as rewards have any zero.

    Args:
        distance, reward: (n,); n of 0 and more, d >= 0.

    Returns:
        {form, alpha, beta, start, alpha_se, beta_se, start_se, r2, peak_distance}; the errors are those of ordinary
        least squares, for independent noise of one size. `peak_distance` is where the fitted curve is highest: alpha /
        (2 beta), or exp(alpha / beta - 1); None where beta is not above 0: the curve has no peak. None in place of it
        all where the points do not settle three coefficients.
    """
    design = np.stack([np.ones_like(distance), distance, -distance * FORMS[form](distance)], axis=1)
    if len(distance) < FEWEST_POINTS or np.linalg.matrix_rank(design) < 3:
        return None
    coefficients, *_ = np.linalg.lstsq(design, reward, rcond=None)
    residuals = reward - design @ coefficients
    variance = residuals @ residuals / (len(reward) - 3)
    errors = np.sqrt(np.diag(variance * np.linalg.inv(design.T @ design)))
    start, alpha, beta = map(float, coefficients)
    spread = float(np.sum((reward - reward.mean()) ** 2))
    return {
        "form": form,
        "start": start,
        "alpha": alpha,
        "beta": beta,
        **dict(zip(("start_se", "alpha_se", "beta_se"), map(float, errors), strict=True)),
        "r2": 1 - float(residuals @ residuals) / spread if spread else None,
        "peak_distance": _peak_distance(form, alpha, beta),
    }


def best_of_n_fits(curve: Sequence[dict]) -> list[dict]:
    """The fits of a best-of-n curve: [`fit` and {of: proxy or gold}], empty where its points do not settle them.

    Args:
        curve: {n, kl, proxy, gold}, as reward_models.card.best_of_n gives it.
    """
    distance = np.sqrt([one["kl"] for one in curve])
    fits = [(name, fit(distance, np.array([one[name] for one in curve]), "best_of_n")) for name in ("proxy", "gold")]
    return [{"of": name} | found for name, found in fits if found]


def _peak_distance(form: str, alpha: float, beta: float) -> float | None:
    if beta <= 0:
        return None
    found = alpha / (2 * beta) if form == "best_of_n" else float(np.exp(min(alpha / beta - 1, 700)))
    return found if found > 0 else None


def frontier(points: Sequence[Point], form: str = "rl") -> dict:
    """All that is told of a run's points, as JSON values.

    Returns:
        {points: [{step, kl, distance, proxy, gold, proxy_se, gold_se, gold_smoothed}], peak: `peak` and the distance,
        KL and the interval's distances there, or None without gold; fits: [`fit` and {of: proxy or gold}]}.
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


def require_points(count: int) -> None:
    if count < FEWEST_POINTS:
        raise UserError(
            "too few points for a frontier",
            got=count,
            expected=f"{FEWEST_POINTS} or more",
            fix="log more often (logging_steps), or keep more step checkpoints (save_steps)",
        )
