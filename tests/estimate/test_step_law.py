"""The step law: hand values, and the line of `align check`."""

import pytest

from alignment.estimate.step_law import compared, step_law


def test_the_law_has_the_papers_values():
    """By hand, a billion parameters and a hundred billion tokens: 1e9^-0.713 = 3.83e-7, 1e11^0.307 = 2,382."""
    rate, batch = step_law(10**9, 10**11)
    assert rate == pytest.approx(1.79 * 3.83e-7 * 2382, rel=5e-3)
    assert batch == pytest.approx(0.58 * 1.910e6, rel=5e-3)


def test_the_rate_grows_with_tokens_and_falls_with_parameters():
    rate, batch = step_law(10**8, 10**10)
    assert step_law(10**8, 10**11)[0] > rate > step_law(10**9, 10**10)[0]
    assert step_law(10**8, 10**11)[1] > batch == step_law(10**9, 10**10)[1]


def test_the_line_has_both():
    line = compared(10**9, 10**11, 3e-4, 524_288)
    assert "1.6e-03" in line and "3.0e-04" in line and "524,288" in line
