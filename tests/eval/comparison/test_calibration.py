"""Calibration against values worked out by hand, against lm-eval's Brier score and against simulation."""

import itertools

import numpy as np
import pytest

from eval.comparison.calibration import brier_scores, expected_calibration_error, reliability
from eval.comparison.standard_errors import mean_se


def test_reliability_by_hand():
    confidence, correct = np.array([0.9, 0.1, 0.7, 0.3]), np.array([True, False, False, True])
    assert reliability(confidence, correct, bins=2) == [
        {"confidence": pytest.approx(0.2), "accuracy": 0.5, "n": 2, "low": 0.1, "high": 0.3},
        {"confidence": pytest.approx(0.8), "accuracy": 0.5, "n": 2, "low": 0.7, "high": 0.9},
    ]
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.3)
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx(0.0)
    assert expected_calibration_error(confidence, correct, bins=4) == pytest.approx((0.1 + 0.1 + 0.7 + 0.7) / 4)
    assert np.isnan(expected_calibration_error(np.array([]), np.array([])))


def test_bins_hold_equal_numbers():
    confidence = np.random.default_rng(0).beta(
        8, 1, size=1000
    )  # nearly all above 0.5: bins of equal width would be empty
    rows = reliability(confidence, np.ones(1000))
    assert [row["n"] for row in rows] == [100] * 10
    assert all(row["high"] <= after["low"] for row, after in itertools.pairwise(rows))


def test_equal_confidences_stay_together():
    """Whatever the order of the items: else a bin's accuracy is what order they came in."""
    confidence, correct = np.array([0.5] * 10 + [0.9] * 4), np.array([1, 0] * 5 + [1] * 4)
    order = np.random.default_rng(1).permutation(14)
    rows = reliability(confidence, correct, bins=7)
    assert rows == reliability(confidence[order], correct[order], bins=7)
    assert [row["n"] for row in rows] == [10, 4]


def test_ece_of_calibrated_and_of_overconfident_answers():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.5, 1, size=20_000)
    right = rng.random(20_000) < confidence
    assert expected_calibration_error(confidence, right) < 0.02
    overconfident = rng.random(20_000) < confidence - 0.2
    assert expected_calibration_error(confidence, overconfident) == pytest.approx(0.2, abs=0.02)


def test_noise_alone_gives_the_ece_that_is_documented():
    rng = np.random.default_rng(3)
    errors = [expected_calibration_error(np.linspace(0.499, 0.501, 1000), rng.random(1000) < 0.5) for _ in range(200)]
    assert np.mean(errors) == pytest.approx(0.8 * (0.25 / 100) ** 0.5, rel=0.05)


def test_brier_by_hand_and_as_lm_eval_has_it():
    assert brier_scores(np.array([0.8, 0.3]), np.array([1, 0])) == pytest.approx([0.04, 0.09])
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    assert brier_scores(probabilities, np.array([0, 1])) == pytest.approx([0.09 + 0.04 + 0.01, 0.01 + 0.81 + 0.64])
    from lm_eval.api.metrics import brier_score

    items = list(zip([0, 1], probabilities, strict=True))
    assert brier_scores(probabilities, np.array([0, 1])).mean() == pytest.approx(brier_score(items))


def test_of_two_choices_brier_is_twice_that_of_the_event():
    p, y = np.array([0.1, 0.6, 0.9]), np.array([0, 1, 0])
    assert brier_scores(np.column_stack([1 - p, p]), y) == pytest.approx(2 * brier_scores(p, y))


def test_the_expected_brier_score_of_calibrated_answers():
    """E (p - y)^2 = p (1 - p) where y is 1 with probability p."""
    p = np.random.default_rng(4).uniform(size=40_000)
    scores = brier_scores(p, (np.random.default_rng(5).random(40_000) < p).astype(int))
    assert scores.mean() == pytest.approx(1 / 6, abs=4 * mean_se(scores))
