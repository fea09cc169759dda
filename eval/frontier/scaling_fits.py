"""Fits of reward by distance, after Gao, Schulman & Hilton 2022 (arXiv 2210.10760): pure functions of numpy arrays."""

from collections.abc import Sequence

import numpy as np

from eval.frontier.gold_peak import FEWEST_POINTS

# R(d) - R(0) = d (alpha - beta g(d)), with g by the form.
FORMS = {"best_of_n": lambda d: d, "rl": lambda d: np.log(np.maximum(d, 1e-300))}


def fit(distance: np.ndarray, reward: np.ndarray, form: str) -> dict | None:
    """Fit R(d) = start + d (alpha - beta g(d)) by least squares, with g(d) = d (best_of_n) or log d (rl).

    The paper's rewards are 0 at d = 0; here the start is a third coefficient, because the zero of a reward is
    arbitrary.

    Args:
        distance, reward: (n,), n >= 0, distance >= 0.
        form: best_of_n or rl.

    Returns:
        {form, alpha, beta, start, alpha_se, beta_se, start_se, r2, peak_distance}, or None if the points do not
        determine the three coefficients. The errors are those of ordinary least squares, for independent noise of one
        variance. `peak_distance` is where the fitted curve is highest: alpha / (2 beta), or exp(alpha / beta - 1); None
        if beta is not above 0, because the curve then has no peak.
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


def _peak_distance(form: str, alpha: float, beta: float) -> float | None:
    if beta <= 0:
        return None
    found = alpha / (2 * beta) if form == "best_of_n" else float(np.exp(min(alpha / beta - 1, 700)))
    return found if found > 0 else None


def best_of_n_fits(curve: Sequence[dict]) -> list[dict]:
    """Fit a best-of-n curve.

    Args:
        curve: [{n, kl, proxy, gold}], as reward_models.card.best_of_n returns it.

    Returns:
        [`fit` and {of: proxy or gold}]; empty if the points do not determine the coefficients.
    """
    distance = np.sqrt([point["kl"] for point in curve])
    fits = [
        (name, fit(distance, np.array([point[name] for point in curve]), "best_of_n")) for name in ("proxy", "gold")
    ]
    return [{"of": name} | found for name, found in fits if found]
