"""The confidence of a written answer: which token states the verdict, and what its alternatives say."""

import math

import pytest

from reward_models.judges.judge_answers import read_preference
from reward_models.judges.verdict_tokens import graded_preference, graded_rating


def tokens(*parts, **at):
    """Tokens without alternatives, but those in `at`: t3={" A": 0.8, " B": 0.2} for the token at place 3."""
    return [
        (part, {one: math.log(p) for one, p in at.get(f"t{place}", {part: 1.0}).items()})
        for place, part in enumerate(parts)
    ]


SPLIT = {" A": 0.6, " B": 0.15, "A": 0.05, " tie": 0.1, " The": 0.1}
PREFERENCES = [
    (tokens("Ver", "dict", ":", " A", t3=SPLIT), 1.0, 0.7 / 0.9),
    (tokens("Ver", "dict", ":", " A"), 1.0, 1.0),
    (tokens("**Verdict", ":**", " [[", "B", "]]", t3={"B": 0.8, "A": 0.2}), 0.0, 0.2),
    (tokens("Verdict", ": ", "tie", t2={"tie": 0.5, "A": 0.4, "B": 0.1}), 0.5, 0.65),
    (tokens(" A", t0={" A": 0.9, " B": 0.1}), 1.0, 0.9),
    # The letter before the label, or in the explanation after the verdict, states nothing.
    (tokens("A", " is long.\n", "Verdict", ":", " A", t0={"A": 0.5, "B": 0.5}, t4={" A": 0.8, " B": 0.2}), 1.0, 0.8),
    (tokens("Verdict", ":", " A", "\n", "A", " wins.", t2={" A": 0.8, " B": 0.2}, t4={"A": 1.0}), 1.0, 0.8),
    (tokens("Reply ", "A", " is long.\n", "[[", "A", "]]", t1={"A": 0.5, "B": 0.5}, t4={"A": 0.7, "B": 0.3}), 1.0, 0.7),
    # No token states it, or the likeliest alternative is another one.
    (tokens("Verdict: A"), 1.0, None),
    (tokens("Verdict", ":", " A", t2={" A": 0.4, " B": 0.6}), 1.0, None),
    ([], 1.0, None),
]  # fmt: skip


@pytest.mark.parametrize(("said", "value", "expected"), PREFERENCES)
def test_graded_preferences(said, value, expected):
    assert graded_preference(said, value) == (None if expected is None else pytest.approx(expected))
    if said:
        assert read_preference("".join(text for text, _ in said)) == value


def test_graded_ratings():
    said = tokens("Rating", ":", " 4", t2={" 4": 0.5, " 3": 0.25, " 5": 0.125, " 9": 0.125})
    assert graded_rating(said, 4.0, 1, 5) == pytest.approx((4 * 0.5 + 3 * 0.25 + 5 * 0.125) / 0.875)
    assert graded_rating(tokens("Rating", ":", " 4", "/", "5"), 4.0, 1, 5) == 4.0
    assert graded_rating(tokens("Rating", ":", " 4", ".", "5"), 4.5, 1, 5) is None
    assert graded_rating(tokens("Rating", ":", " 1"), 1.0, 1, 10) is None  # it may be the beginning of a 10
