"""Does a reward model know how sure it may be? Its margins as probabilities, against how often it is right."""

import numpy as np
from scipy.special import expit

BINS = 10


def agreement(margins: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """1 where a margin has the label's sign, 0 where the other, 0.5 where it is zero."""
    return (1 + np.sign(margins) * sign) / 2


def share(right: np.ndarray) -> dict:
    """{n, accuracy, se} of answers that are right (1), wrong (0) or ties (0.5); None where there are too few."""
    count = len(right)
    return {
        "n": count,
        "accuracy": float(right.mean()) if count else None,
        "se": float(right.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
    }


def calibration(margins: np.ndarray) -> dict:
    """Bradley-Terry's probabilities against the labels.

    A margin m says with confidence sigmoid(|m|) which reply is preferred. The bins, of equal width over [0.5, 1], are
    the points of a reliability plot; the expected calibration error (ece) is the mean of |accuracy - confidence| over
    them, weighted by their pairs.

    Args:
        margins: reward of chosen minus reward of rejected, by the labels as they are, noise included.

    Returns:
        {n, ece, brier, log_loss, bins: [{low, high, n, confidence, accuracy, se}]}.
    """
    confidence = expit(np.abs(margins))
    right = agreement(margins, np.ones(len(margins)))
    index = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for number in range(BINS):
        inside = index == number
        mean = float(confidence[inside].mean()) if inside.any() else None
        one = {"low": 0.5 + number / (2 * BINS), "high": 0.5 + (number + 1) / (2 * BINS), "confidence": mean}
        one |= share(right[inside])
        bins.append(one)
        if mean is not None:
            error += one["n"] / len(margins) * abs(one["accuracy"] - mean)
    return {
        "n": len(margins),
        "ece": error,
        "brier": float((expit(-margins) ** 2).mean()),
        "log_loss": float(np.logaddexp(0, -margins).mean()),
        "bins": bins,
    }


def quantile_bins(values: np.ndarray, right: np.ndarray, count: int = 5) -> list[dict]:
    """Accuracy in ranges of equally many pairs by `values`: [{low, high, n, accuracy, se}]; equal values stay together.

    A range holds low <= value < high, the last one its high too.
    """
    if not len(values):
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, count + 1), method="lower"))
    inner = edges[1:-1] if len(edges) > 1 else edges[:0]
    index = np.searchsorted(inner, values, side="right")
    lows, highs = [edges[0], *inner], [*inner, edges[-1]]
    return [
        {"low": float(low), "high": float(high), **share(right[index == number])}
        for number, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]
