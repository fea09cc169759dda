"""Win rates with length held equal, and ratings, against closed forms and simulation."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, logit

from alignment.errors import UserError
from eval.comparison.preferences import PRIOR_SD, elo_ratings, length_controlled_win_rate


def test_without_differences_of_length_it_is_the_raw_win_rate():
    outcomes = np.array([1.0] * 60 + [0.5] * 20 + [0.0] * 20)
    found = length_controlled_win_rate(outcomes, np.zeros(100))
    assert found["win_rate"] == pytest.approx(0.70, abs=1e-3) and found["n"] == 100
    assert found["ci_low"] < 0.70 < found["ci_high"] and found["length_effect"] == 0


def test_two_lengths_by_hand():
    """Of equal length 30 of 50 are won, 25 tokens longer 45 of 50: two cells, two coefficients, so the fit is exact."""
    outcomes = np.repeat([1.0, 0.0, 1.0, 0.0], [30, 20, 45, 5])
    difference = np.repeat([0.0, 25.0], 50)
    found = length_controlled_win_rate(outcomes, difference)
    slope = (logit(0.9) - logit(0.6)) / np.tanh(25 / 12.5)
    assert found["win_rate"] == pytest.approx(0.6, abs=2e-3)
    assert found["length_effect"] == pytest.approx(slope, rel=0.02)
    # The intercept rests on the 50 pairs of equal length alone: the textbook error of a logit, G / (G - 1) aside.
    error = (1 / 30 + 1 / 20) ** 0.5
    assert logit(found["ci_high"]) - logit(found["win_rate"]) == pytest.approx(1.984 * error, rel=0.02)


def test_a_judge_of_length_alone_is_seen_through():
    """The longer reply wins, whoever wrote it, and one side writes longer ones: raw 81%, at equal length half."""
    rng = np.random.default_rng(0)
    difference = rng.normal(40, 40, size=2000)
    outcomes = (rng.random(2000) < expit(3 * np.tanh(difference / 40))).astype(float)
    found = length_controlled_win_rate(outcomes, difference)
    assert outcomes.mean() > 0.75
    assert found["ci_low"] < 0.5 < found["ci_high"] and found["win_rate"] == pytest.approx(0.5, abs=0.06)


def test_its_interval_covers():
    rng, held = np.random.default_rng(1), []
    for _ in range(1000):
        difference = rng.normal(20, 40, size=150)
        spread = np.tanh(difference / np.std(difference))
        outcomes = (rng.random(150) < expit(0.4 + spread)).astype(float)
        found = length_controlled_win_rate(outcomes, difference)
        held.append(found["ci_low"] <= expit(0.4) <= found["ci_high"])
    assert 0.93 <= np.mean(held) <= 0.97


def test_clusters_widen_its_interval():
    outcomes, difference = np.repeat([1.0, 0.0, 1.0, 1.0], 25), np.tile([1.0, -1.0], 50)
    alone = length_controlled_win_rate(outcomes, difference)
    together = length_controlled_win_rate(outcomes, difference, clusters=np.arange(100) // 5)
    assert together["win_rate"] == alone["win_rate"]
    assert together["ci_high"] - together["ci_low"] > 1.5 * (alone["ci_high"] - alone["ci_low"])


def test_outcomes_that_say_nothing_of_their_spread_have_no_interval():
    found = length_controlled_win_rate(np.ones(50), np.arange(50))
    assert found["win_rate"] > 0.98 and found["ci_low"] is None and found["ci_high"] is None
    nothing = length_controlled_win_rate(np.full(2, np.nan), np.zeros(2))
    assert nothing.pop("n") == 0 and len(nothing) == 4 and set(nothing.values()) == {None}
    unheard = length_controlled_win_rate(np.array([1.0, 0.0, np.nan]), np.array([0.0, 0.0, 1e9]))
    assert unheard["n"] == 2 and unheard["win_rate"] == pytest.approx(0.5)


def test_two_ratings_have_a_closed_form():
    """Three wins to one: 400 log10(3) apart; ties are half a win each."""
    rows = elo_ratings(["x"] * 80, ["y"] * 80, np.repeat([1.0, 0.5, 0.0], [50, 20, 10]), anchor="y", anchor_rating=1500)
    assert [row["name"] for row in rows] == ["x", "y"]
    assert rows[0]["rating"] == pytest.approx(1500 + 400 * np.log10(3), abs=0.2)
    assert (rows[1]["rating"], rows[1]["ci_low"], rows[1]["ci_high"]) == (1500, 1500, 1500)
    assert [(row["games"], row["score"], row["bounded"]) for row in rows] == [(80, 60, True), (80, 20, True)]


def test_ratings_satisfy_the_likelihood_equations():
    """At the maximum every checkpoint scores what its ratings predict."""
    rng = np.random.default_rng(2)
    names = np.array(["a", "b", "c", "d"])
    sides = np.array([rng.permutation(4)[:2] for _ in range(400)])
    strength = np.array([0.0, 0.5, 1.0, 2.0])
    outcomes = (rng.random(400) < expit(strength[sides[:, 0]] - strength[sides[:, 1]])).astype(float)
    rows = elo_ratings(names[sides[:, 0]], names[sides[:, 1]], outcomes, iterations=2)
    rating = {row["name"]: row["rating"] for row in rows}
    predicted = dict.fromkeys(names, 0.0)
    for first, second in names[sides]:
        chance = 1 / (1 + 10 ** ((rating[second] - rating[first]) / 400))
        predicted[first] += chance
        predicted[second] += 1 - chance
    assert {row["name"]: row["score"] for row in rows} == pytest.approx(predicted, abs=0.1)
    assert [row["name"] for row in rows] == ["d", "c", "b", "a"]


def test_which_side_is_named_first_does_not_matter():
    a, b, outcomes = ["x", "y", "x", "y"] * 5, ["y", "z", "z", "x"] * 5, np.array([1, 0.5, 1, 1] * 4 + [0, 1, 0, 0.0])
    straight = elo_ratings(a, b, outcomes, anchor="z")
    swapped = elo_ratings(b, a, 1 - outcomes, anchor="z")
    for row, other in zip(straight, swapped, strict=True):
        assert row == pytest.approx(other)


def test_intervals_of_ratings_cover():
    """Three checkpoints judged on the same 60 prompts, prompts alike within a cluster; 60 times."""
    rng, held = np.random.default_rng(3), []
    first, second = np.array(["a", "a", "b"]), np.array(["b", "c", "c"])
    gaps = np.array([-0.8, -1.2, -0.4])  # of strengths 0, 0.8, 1.2
    for draw in range(60):
        outcomes = (rng.random((60, 3)) < expit(gaps)).astype(float).ravel()
        prompts = np.repeat(np.arange(60), 3)
        rows = elo_ratings(np.tile(first, 60), np.tile(second, 60), outcomes, prompts, seed=draw, iterations=60)
        found = {row["name"]: row for row in rows}
        truth = 1000 + 400 / np.log(10) * 1.2
        held.append(found["c"]["ci_low"] <= truth <= found["c"]["ci_high"])
    assert 0.87 <= np.mean(held) <= 1.0


def test_the_seed_is_of_the_intervals_alone():
    a, b, outcomes = ["x"] * 20 + ["y"] * 20, ["y"] * 20 + ["z"] * 20, np.tile([1.0, 0.5, 0.0, 1.0], 10)
    plain, same, other = (elo_ratings(a, b, outcomes, iterations=20, **keys) for keys in ({}, {"seed": 0}, {"seed": 1}))
    assert plain == same != other
    assert [(row["name"], row["rating"]) for row in plain] == [(row["name"], row["rating"]) for row in other]


def test_one_that_never_loses_has_no_bound():
    a, b = ["x"] * 10 + ["y"] * 10, ["y"] * 10 + ["z"] * 10
    rows = elo_ratings(a, b, np.array([1.0] * 10 + [1.0, 0.0] * 5))
    assert rows[0]["name"] == "x" and np.isfinite([row["rating"] for row in rows]).all()
    assert not any(row["bounded"] for row in rows)
    assert rows[0]["rating"] - rows[1]["rating"] > 400


def test_the_prior_alone_bounds_a_side_that_won_every_pair():
    """Of n wins n (1 - p) balances the prior's pull on each strength, which is half their difference."""
    for wins in (1, 30):
        first, second = elo_ratings(["x"] * wins, ["y"] * wins, np.ones(wins), anchor="y", iterations=2)
        logits = brentq(lambda d, wins=wins: wins * expit(-d) - d / 2 / PRIOR_SD**2, 0, 100)
        assert first["rating"] - second["rating"] == pytest.approx(400 / np.log(10) * logits, rel=1e-4)
        assert not first["bounded"]
    even = elo_ratings(["x", "x"], ["y", "y"], np.array([1.0, 0.0]), iterations=2)
    assert [(row["rating"], row["games"], row["score"], row["bounded"]) for row in even] == [(1000, 2, 1, True)] * 2


def test_ratings_without_a_link_are_refused():
    with pytest.raises(UserError, match=r"(?s)connect.*w, x \| y, z"):
        elo_ratings(["w", "y"], ["x", "z"], np.array([1.0, 0.0]))
    with pytest.raises(UserError, match="anchor"):
        elo_ratings(["w"], ["x"], np.array([1.0]), anchor="base")


def test_ratings_of_one_prompt_have_no_interval():
    rows = elo_ratings(["a", "b", "a"], ["b", "c", "c"], np.array([1.0, 0.5, 0.0]), np.zeros(3), iterations=20)
    assert {row["name"]: (row["ci_low"], row["ci_high"]) for row in rows} == {
        "a": (1000, 1000),
        "b": (None, None),
        "c": (None, None),
    }
