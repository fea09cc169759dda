"""Bins of equal mass and of equal width, and the calibration error over them."""

import numpy as np
import pytest

from reward_models.reliability import bin_numbers, expected_calibration_error, reliability

SURE = np.array([0.5, 0.55, 0.56, 0.78, 0.95, 1.0])


@pytest.mark.parametrize(
    ("by", "lowest", "numbers"),
    [("width", 0.0, [2, 2, 2, 3, 4, 4]), ("width", 0.5, [0, 0, 0, 2, 4, 4]), ("mass", 0.0, [0, 1, 2, 2, 3, 4])],
)
def test_bins_by_hand(by, lowest, numbers):
    assert bin_numbers(SURE, 5, by, lowest).tolist() == numbers


def test_an_upper_edge_belongs_to_the_bin_below_it():
    assert bin_numbers(np.array([0.0, 0.25, 0.5, 0.75, 1.0]), 4, "width").tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(("by", "lowest"), [("width", 0.0), ("width", 0.5), ("mass", 0.0)])
def test_the_error_is_the_mean_gap_of_the_rows(by, lowest):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 500)
    right = rng.choice([0.0, 0.5, 1.0], 500)
    rows = reliability(confidence, right, 7, by, lowest)
    gaps = sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / 500
    assert expected_calibration_error(confidence, right, 7, by, lowest) == pytest.approx(gaps)
    assert sum(row["n"] for row in rows) == 500 and len(rows) == (4 if (by, lowest) == ("width", 0.0) else 7)
