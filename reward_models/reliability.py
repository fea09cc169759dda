"""Whether confidence agrees with accuracy: bins of like confidence, and the expected calibration error over them.

Pure functions of numpy arrays.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import numpy as np

Binning = Literal["mass", "width"]


class Bin(TypedDict):
    """The items of a bin: their mean confidence, accuracy, number, and least and greatest confidence."""

    confidence: float
    accuracy: float
    n: int
    low: float
    high: float


def bin_numbers(confidence: np.ndarray, bins: int = 10, by: Binning = "mass", lowest: float = 0.0) -> np.ndarray:
    """The bin of each item, from 0 (the least confident) to bins - 1. (n,) -> (n,)

    Args:
        by: "mass" for about as many items in each bin, where items of equal confidence share a bin, so that there may
            be fewer bins; "width" for bins of equal width over [lowest, 1], each without its lower end but the first.
        lowest: the least confidence possible, such as 0.5 for the preferred reply of a pair.
    """
    confidence = np.asarray(confidence, dtype=float)
    if by == "width":
        numbers = np.ceil((confidence - lowest) / (1 - lowest) * bins).astype(int) - 1
        return np.clip(numbers, 0, bins - 1)
    from scipy.stats import rankdata

    return ((rankdata(confidence) - 0.5) / max(1, len(confidence)) * bins).astype(int)


def reliability(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 10, by: Binning = "mass", lowest: float = 0.0
) -> list[Bin]:
    """Accuracy by confidence: the bins that hold items, the least confident first.

    Args:
        confidence: (n,) in [lowest, 1].
        correct: (n,) of 0 and 1 (or bool); 0.5 for a tie.
        bins, by, lowest: as for `bin_numbers`.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    numbers = bin_numbers(confidence, bins, by, lowest)
    return [_summary(confidence[numbers == one], correct[numbers == one]) for one in np.unique(numbers)]


def _summary(confidence: np.ndarray, correct: np.ndarray) -> Bin:
    return {
        "confidence": float(confidence.mean()),
        "accuracy": float(correct.mean()),
        "n": len(confidence),
        "low": float(confidence.min()),
        "high": float(confidence.max()),
    }


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 10, by: Binning = "mass", lowest: float = 0.0
) -> float:
    """Mean over items of |confidence - accuracy| of their bin (Naeini et al. 2015); NaN without items.

    Noise alone keeps it above 0: with m items per bin and accuracy p, a perfectly calibrated model shows about
    0.8 sqrt(p (1 - p) / m), 0.04 for 100 items per bin at 0.5. Compare models on the same items and bins.

    Args:
        confidence, correct, bins, by, lowest: as for `reliability`.
    """
    confidence, correct = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if not len(confidence):
        return float("nan")
    gaps = np.bincount(bin_numbers(confidence, bins, by, lowest), weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(confidence))
