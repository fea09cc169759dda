"""Whether a reward model's margins, read as probabilities, agree with how often it is right."""

from typing import TypedDict

import numpy as np
from scipy.special import expit

from reward_models.reliability import bin_numbers, expected_calibration_error

BINS = 10
COIN = 0.5  # least confidence in the preferred reply of a pair


class Share(TypedDict):
    """Number, mean and standard error of answers; None if there are too few."""

    n: int
    accuracy: float | None
    se: float | None


def agreement(margins: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """1 if a margin has the label's sign, 0 if it has the other sign, 0.5 if it is zero. (B,), (B,) -> (B,)"""
    return (1 + np.sign(margins) * sign) / 2


def share(right: np.ndarray) -> Share:
    """{n, accuracy, se} of (n,) answers that are right (1), wrong (0) or ties (0.5)."""
    count = len(right)
    return {
        "n": count,
        "accuracy": float(right.mean()) if count else None,
        "se": float(right.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
    }


def calibration(margins: np.ndarray) -> dict:
    """Bradley-Terry probabilities against the labels.

    A margin m gives the preferred reply the probability sigmoid(|m|). The bins have equal width over [0.5, 1] and are
    the points of a reliability plot.

    Args:
        margins: (B,) reward of chosen minus reward of rejected, by the labels as they are, noise included.

    Returns:
        {n, ece, brier, log_loss, bins: [{low, high, confidence, n, accuracy, se}]}.
    """
    confidence = expit(np.abs(margins))
    right = agreement(margins, np.ones(len(margins)))
    numbers = bin_numbers(confidence, BINS, "width", COIN)
    bins = []
    for number in range(BINS):
        inside = numbers == number
        edges = {"low": COIN + number / (2 * BINS), "high": COIN + (number + 1) / (2 * BINS)}
        mean = float(confidence[inside].mean()) if inside.any() else None
        bins.append({**edges, "confidence": mean, **share(right[inside])})
    return {
        "n": len(margins),
        "ece": expected_calibration_error(confidence, right, BINS, "width", COIN),
        "brier": float((expit(-margins) ** 2).mean()),
        "log_loss": float(np.logaddexp(0, -margins).mean()),
        "bins": bins,
    }


def quantile_bins(values: np.ndarray, right: np.ndarray, count: int = 5) -> list[dict]:
    """Accuracy in ranges of `values` with as many pairs each: [{low, high, n, accuracy, se}].

    Equal values share a range. A range holds low <= value < high; the last one also includes high.
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
