"""Whether confidence agrees with accuracy: Brier score, and the functions of reward_models/reliability.py.

Pure functions of numpy arrays.
"""

import numpy as np

from reward_models.reliability import expected_calibration_error as expected_calibration_error
from reward_models.reliability import reliability as reliability


def brier_scores(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n,) squared errors of probabilities; their mean is the Brier score, and they pair like any item score.

    An event has (p - y)^2, from 0 to 1. Choices have the sum over the choices, from 0 to 2 (Brier's own form, as in
    lm-eval's `brier_score`), which for two choices is twice the score of the event.

    Args:
        probabilities: (n,) of the event, or (n, k) of k choices.
        target: (n,) of 0 and 1, or the index of the right choice.
    """
    probabilities, target = np.asarray(probabilities, dtype=float), np.asarray(target)
    if probabilities.ndim == 1:
        return (probabilities - target) ** 2
    return np.sum((probabilities - np.eye(probabilities.shape[1])[target.astype(int)]) ** 2, axis=1)
