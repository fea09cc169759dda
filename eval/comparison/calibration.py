"""Whether a model is as sure as it is right: reliability by bin, expected calibration error, Brier score.

Pure functions of numpy arrays.
"""

import numpy as np


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> list[dict]:
    """How often answers were right, by how sure the model was.

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) of 0 and 1 (or bool).
        bins: of about equal numbers of items. Equal confidences are never parted, so there may be fewer.

    Returns:
        From the least sure to the surest, {confidence (mean), accuracy, n, low, high (the bin's extremes)}.
    """
    from scipy.stats import rankdata

    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    bin = ((rankdata(confidence) - 0.5) / max(1, len(confidence)) * bins).astype(int)
    rows = []
    for number in np.unique(bin):
        inside = bin == number
        sure = confidence[inside]
        rows.append(
            {
                "confidence": float(sure.mean()),
                "accuracy": float(correct[inside].mean()),
                "n": int(inside.sum()),
                "low": float(sure.min()),
                "high": float(sure.max()),
            }
        )
    return rows


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Mean over items of |confidence - accuracy| of their bin, bins as in `reliability`; NaN without items.

    Noise alone keeps it above 0: with m items a bin and accuracy p, a perfectly calibrated model shows about
    0.8 sqrt(p (1 - p) / m), 0.04 for 100 items a bin at 0.5. Compare models on the same items and bins.
    """
    rows = reliability(confidence, correct, bins)
    total = sum(row["n"] for row in rows)
    return sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / total if total else float("nan")


def brier_scores(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n,) squared errors of probabilities; their mean is the Brier score, and they pair like any item score.

    Args:
        probabilities: (n,) of the event, or (n, k) of k choices.
        target: (n,) of 0 and 1, or the right choice's index.

    Of an event (p - y)^2, from 0 to 1; of choices the sum over them, from 0 to 2 (Brier's own form, as lm-eval's
    `brier_score`): with two choices it is twice the former.
    """
    probabilities, target = np.asarray(probabilities, dtype=float), np.asarray(target)
    if probabilities.ndim == 1:
        return (probabilities - target) ** 2
    return np.sum((probabilities - np.eye(probabilities.shape[1])[target.astype(int)]) ** 2, axis=1)
