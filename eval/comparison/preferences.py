"""Statistics of pairwise preferences: length-controlled win rate, and Elo ratings of several checkpoints.

Pure functions. Both fit a logistic regression to outcomes between 0 and 1, with a tie as half a win.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignment.errors import UserError
from eval.comparison.intervals import resampled_counts, t_interval
from eval.comparison.standard_errors import clustered_se

# The standard deviation of the normal prior on every coefficient, in logits. The prior moves an estimate from 100 pairs
# by less than 0.1%, and keeps estimates finite if a side wins every pair.
PRIOR_SD = 10.0
ELO_PER_LOGIT = 400 / np.log(10)


def fit_logistic(design: np.ndarray, outcomes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fit a logistic regression by penalised maximum likelihood; return its (k,) coefficients.

    Args:
        design: (n, k).
        outcomes: (n,) in [0, 1].
        weights: (n,), the number of observations of each row.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss_and_gradient(beta: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ beta
        loss = weights @ (np.logaddexp(0, logits) - outcomes * logits) + beta @ beta / (2 * PRIOR_SD**2)
        return float(loss), design.T @ (weights * (expit(logits) - outcomes)) + beta / PRIOR_SD**2

    precise = {"ftol": 1e-14, "gtol": 1e-9}
    return minimize(loss_and_gradient, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options=precise).x


def _information(design: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(k, k) curvature of the penalised log-likelihood at the fitted probabilities `p`."""
    return (design * (weights * p * (1 - p))[:, None]).T @ design + np.eye(design.shape[1]) / PRIOR_SD**2


def length_controlled_win_rate(
    outcomes: np.ndarray, length_difference: np.ndarray, clusters: np.ndarray | None = None, level: float = 0.95
) -> dict:
    """Estimate the win rate if both sides' replies had the same length.

    The outcome is regressed on tanh(length difference / its standard deviation), and the rate is read at a difference
    of 0: the length term of AlpacaEval 2 (Dubois et al. 2024, "Length-Controlled AlpacaEval"), without its terms for
    single prompts. If length has no effect, the result is the raw win rate. It removes everything correlated with
    length, whether the judge prefers length itself or the content of long replies.

    Args:
        outcomes: (n,), 1 for a win, 0.5 for a tie, 0 for a loss; NaN for no opinion, which is left out.
        length_difference: (n,), the side's length less the other's, in tokens, words or characters.
        clusters: (n,) labels; outcomes of one cluster (a prompt) may depend on each other. By default each outcome is
            its own cluster.
        level: level of the interval.

    Returns:
        {win_rate, ci_low, ci_high, length_effect, n}. The interval is computed for the logit, with clustered
        standard error and Student's quantile. It is None if all outcomes are equal, because they then do not show how
        they vary, and for fewer than two clusters. `length_effect` is the regression's slope, in logits per unit of the
        tanh; above 0 if longer replies win. The rates are None if nothing was judged.
    """
    from scipy.special import expit

    judged = ~np.isnan(outcomes)
    clusters = np.arange(len(outcomes))[judged] if clusters is None else np.asarray(clusters)[judged]
    y, difference = outcomes[judged], np.asarray(length_difference, dtype=float)[judged]
    if not len(y):
        return {"win_rate": None, "ci_low": None, "ci_high": None, "length_effect": None, "n": 0}
    spread = np.std(difference)
    scaled = np.tanh(difference / spread) if spread > 0 else np.zeros(len(y))
    design, ones = np.column_stack([np.ones(len(y)), scaled]), np.ones(len(y))
    beta = fit_logistic(design, y, ones)
    p = expit(design @ beta)
    # How far each outcome moves the intercept: a sandwich of the curvature and the residuals.
    influence = (np.linalg.inv(_information(design, p, ones)) @ (design * (y - p)[:, None]).T)[0]
    groups = len(np.unique(clusters))
    low, high = t_interval(beta[0], clustered_se(influence, clusters), groups, level=level)
    known = not np.isnan(low) and np.ptp(y) > 0
    return {
        "win_rate": float(expit(beta[0])),
        "ci_low": float(expit(low)) if known else None,
        "ci_high": float(expit(high)) if known else None,
        "length_effect": float(beta[1]),
        "n": len(y),
    }


def elo_ratings(
    a: Sequence[str],
    b: Sequence[str],
    outcomes: np.ndarray,
    clusters: np.ndarray | None = None,
    *,
    anchor: str | None = None,
    anchor_rating: float = 1000.0,
    seed: int = 0,
    iterations: int = 500,
    level: float = 0.95,
) -> list[dict]:
    """Rate several checkpoints by pairwise outcomes: the Bradley-Terry model on the Elo scale.

    The probability that a checkpoint beats another is 1 / (1 + 10^(difference of ratings / -400)). All outcomes are
    fitted together, so their order does not matter.

    Args:
        a, b: (n,) names of the two sides of each pair.
        outcomes: (n,), 1 if a wins, 0.5 for a tie, 0 if b wins; NaN for no opinion, which is left out.
        clusters: (n,) labels: pairs on one prompt are resampled together. By default each pair is its own cluster.
        anchor: the name whose rating is fixed; by default the first of `a`.
        anchor_rating: the anchor's rating.
        seed, iterations, level: settings of the percentile bootstrap, which is too narrow below 40 clusters.

    Returns:
        Best first, {name, rating, ci_low, ci_high, games, score (wins, ties half), bounded}. Ratings are relative, so
        the anchor's interval has no width; with fewer than two clusters there is nothing to resample, and every other
        interval is None. `bounded` is False if a set of checkpoints won, or lost, every pair against the others: the
        outcomes then do not bound their distance, only a weak prior does.

    Raises:
        UserError: the anchor played no pair, or the checkpoints fall into groups without a pair between them.
    """
    judged = ~np.isnan(outcomes)
    clusters = np.arange(len(outcomes))[judged] if clusters is None else np.asarray(clusters)[judged]
    names, sides = np.unique(np.array([a, b])[:, judged], return_inverse=True)
    anchor = str(a[0]) if anchor is None else anchor
    wins, games, pairs = _tally(sides.reshape(2, -1), outcomes[judged], clusters, len(names))
    beaten = _beaten(wins.sum(0), games.sum(0), pairs, len(names))
    _require_linked(names, beaten, anchor)
    at = int(np.flatnonzero(names == anchor)[0])
    ratings = _ratings(wins.sum(0), games.sum(0), pairs, at, len(names), anchor_rating)
    draws = [
        _ratings(drawn @ wins, drawn @ games, pairs, at, len(names), anchor_rating)
        for counts in resampled_counts(len(games), iterations, seed)
        for drawn in counts
    ]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    played, scored = _per_name(games.sum(0), wins.sum(0), pairs, len(names))
    bounded, known = _groups(beaten, "strong") == 1, len(games) > 1
    rows = [
        {
            "name": str(name),
            "rating": float(ratings[i]),
            "ci_low": float(low[i]) if known or i == at else None,
            "ci_high": float(high[i]) if known or i == at else None,
            "games": int(played[i]),
            "score": float(scored[i]),
            "bounded": bounded,
        }
        for i, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -row["rating"])


def _tally(
    sides: np.ndarray, outcomes: np.ndarray, clusters: np.ndarray, names: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wins of the first name and games, both (clusters, pairs), and the pairs of names (pairs, 2)."""
    swapped = sides[0] > sides[1]
    first, second = np.minimum(*sides), np.maximum(*sides)
    keys, pair = np.unique(first * names + second, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    shape = (cluster.max() + 1, len(keys))
    wins, games = np.zeros(shape), np.zeros(shape)
    np.add.at(wins, (cluster, pair), np.where(swapped, 1 - outcomes, outcomes))
    np.add.at(games, (cluster, pair), 1.0)
    return wins, games, np.column_stack(np.divmod(keys, names))


def _ratings(
    wins: np.ndarray, games: np.ndarray, pairs: np.ndarray, anchor: int, names: int, anchor_rating: float
) -> np.ndarray:
    """(names,) ratings from the first name's wins and the games of each pair, both (pairs,)."""
    rows = np.arange(len(pairs))
    design = np.zeros((len(pairs), names))
    design[rows, pairs[:, 0]], design[rows, pairs[:, 1]] = 1.0, -1.0
    share = np.divide(wins, games, out=np.full(len(pairs), 0.5), where=games > 0)
    strengths = fit_logistic(design, share, games)
    return anchor_rating + ELO_PER_LOGIT * (strengths - strengths[anchor])


def _per_name(games: np.ndarray, wins: np.ndarray, pairs: np.ndarray, names: int) -> tuple[np.ndarray, np.ndarray]:
    """(names,) games played, and (names,) points scored."""
    both = pairs.T.ravel()
    played = np.bincount(both, weights=np.tile(games, 2), minlength=names)
    return played, np.bincount(both, weights=np.concatenate([wins, games - wins]), minlength=names)


def _beaten(wins: np.ndarray, games: np.ndarray, pairs: np.ndarray, names: int) -> np.ndarray:
    """(names, names) bool: whether the first name took a point from the second."""
    beaten = np.zeros((names, names), dtype=bool)
    first, second = pairs.T
    beaten[first, second], beaten[second, first] = wins > 0, games - wins > 0
    return beaten


def _groups(beaten: np.ndarray, connection: str) -> int:
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(beaten, connection=connection)[0])


def _require_linked(names: np.ndarray, beaten: np.ndarray, anchor: str) -> None:
    from scipy.sparse.csgraph import connected_components

    if anchor not in names:
        raise UserError("The anchor has no judged pair.", got=anchor, expected=f"one of {', '.join(names)}")
    count, group = connected_components(beaten, directed=False)
    if count > 1:
        shown = " | ".join(", ".join(names[group == i]) for i in range(count))
        raise UserError(
            "Ratings need pairs that connect all checkpoints.", got=shown, fix="judge pairs between the groups"
        )
