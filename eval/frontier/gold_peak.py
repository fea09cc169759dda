"""Where the gold reward of a run peaks, and whether it has fallen since: pure functions of numpy arrays."""

import numpy as np

from alignment.errors import UserError

FEWEST_POINTS = 4
CORRELATION_TIMES = 20  # how many are tried, from a quarter of a point to the length of the run


def require_points(count: int) -> None:
    """Raise a UserError for fewer than FEWEST_POINTS points."""
    if count < FEWEST_POINTS:
        raise UserError(
            "too few points for a frontier",
            got=count,
            expected=f"{FEWEST_POINTS} or more",
            fix="log more often (logging_steps), or keep more step checkpoints (save_steps)",
        )


def peak(
    steps: np.ndarray,
    gold: np.ndarray,
    gold_se: np.ndarray | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict:
    """Find where the smoothed gold reward is highest, and test whether it has fallen since.

    The smoothing is over steps; its width is a sixth of the run, or the distance between points if that is larger.
    The noise of the points is resampled: from their standard errors if given, otherwise by `correlated_noise`, because
    neighbouring points of one training run are correlated.

    Args:
        steps, gold: (n,), n >= 4, steps rising.
        gold_se: (n,), standard errors of gold; points that have them (checkpoints) are assumed to be independent.
        draws, seed: number and seed of the resamples.
        level: level of the interval.

    Returns:
        {index, step, gold, low, high, fall, fall_p, over_optimised, smoothed: list of n}. [low, high] are steps, the
        interval of the peak's place. `fall` is smoothed gold at the peak less smoothed gold at the end. Because a peak
        is selected for being high, noise alone produces a fall: `fall_p` is the share of noise around a flat curve that
        produces a fall as large, and the run is `over_optimised` if that is at most 1 - level.
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


def smoother(steps: np.ndarray, width: float) -> np.ndarray:
    """Return the (n, n) matrix of local linear regression with Gaussian weights: `matrix @ values` is smooth.

    Args:
        steps: (n,), all distinct.
        width: standard deviation of the weights, in steps.
    """
    offsets = steps[None, :] - steps[:, None]
    weights = np.exp(-0.5 * (offsets / width) ** 2)
    moments = [np.sum(weights * offsets**power, axis=1, keepdims=True) for power in range(3)]
    rows = weights * (moments[2] - offsets * moments[1])
    return rows / rows.sum(axis=1, keepdims=True)


def correlated_noise(steps: np.ndarray, gold: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw noise like that of a curve about its trend, including the uncertainty about its size and correlation.

    The trend is a parabola (a line for fewer than 7 points), the noise a first-order autoregression over steps: its
    correlation falls as exp(-distance / time). The residuals of a flexible curve show too little of a slow noise,
    because the curve follows it. Therefore the time comes from the restricted likelihood, which allows for the fitted
    trend. Because few points determine it badly, each draw has its own time and variance from their posterior (prior:
    uniform over the logarithm of the time, up to the length of the run).

    Args:
        steps, gold: (n,), n >= 4, steps rising.
        draws: number of draws.
        rng: source of randomness.

    Returns:
        (draws, n).
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
    """Sum of squares of correlated values about a trend, and the other terms of the restricted log-likelihood.

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
