"""What a policy inherited: values by hand, scales that cancel, equal replies, clusters, and cases without an answer."""

import numpy as np
import pytest

from reward_models.card.policy_gain import inherited, inherited_text

NAMES = {"policy": "ppo", "baseline": "sft"}


def test_values_by_hand():
    """Root mean squares of 1: gains are means, of which the judge's is 0.5 and gold's 0; differences 0, 0, 2, 0."""
    found = inherited([1, 1, 1, -1], [1, 1, -1, -1])
    assert (found["judge_gain"], found["gold_gain"], found["value"]) == (0.5, 0.0, 0.5)
    reach = 3.182446 * 0.5  # Student's quantile at 3 degrees of freedom; standard error: deviation 1 over root 4
    assert (found["low"], found["high"]) == pytest.approx((0.5 - reach, 0.5 + reach))
    assert (found["judge_wins"]["value"], found["gold_wins"]["value"], found["wins"]["value"]) == (0.75, 0.5, 0.25)
    assert found["wins"]["high"] == pytest.approx(0.25 + reach / 2) and (found["n"], found["equal"]) == (4, 0)


def test_gaps_are_divided_by_their_root_mean_square():
    found = inherited([3, 1], [1, 1])  # root mean square: root 5
    assert (found["judge_gain"], found["gold_gain"]) == pytest.approx((2 / 5**0.5, 1.0))
    assert found["wins"]["value"] == 0
    other = inherited([300, 100], [0.01, 0.01])
    assert other["value"] == pytest.approx(found["value"]) and other["low"] == pytest.approx(found["low"])


def test_exchanged_checkpoints_and_equal_eyes():
    rng = np.random.default_rng(0)
    judge, gold = rng.normal(0.5, 1, 50), rng.normal(0.2, 1, 50)
    there, back = inherited(judge, gold), inherited(-judge, -gold)
    assert back["value"] == pytest.approx(-there["value"]) and back["low"] == pytest.approx(-there["high"])
    assert back["wins"]["value"] == pytest.approx(-there["wins"]["value"])
    same = inherited(judge, 3 * judge)
    assert (same["value"], same["low"], same["high"]) == pytest.approx((0, 0, 0), abs=1e-12)


def test_equal_replies_are_gaps_of_nothing():
    found, zeros = inherited([1, 1, 1, -1], [1, 1, -1, -1], equal=4), np.zeros(4)
    whole = inherited(np.append([1, 1, 1, -1], zeros), np.append([1, 1, -1, -1], zeros))
    assert found == whole | {"equal": 4}
    assert (found["n"], found["judge_wins"]["value"], found["wins"]["value"]) == (8, 0.625, 0.125)
    assert found["value"] == pytest.approx(0.25 / 0.5**0.5)  # half the mean, root mean square root 1/2


def test_the_interval_holds_the_value_as_often_as_it_says():
    """Clusters of two alike pairs: of 300 samples, some 95% have the value of a large sample in their interval."""
    rng = np.random.default_rng(1)

    def draw(prompts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shared = rng.normal(size=(3, prompts)).repeat(2, axis=1)
        noise = rng.normal(size=(2, 2 * prompts)) / 3
        gold = 0.3 + shared[0] + noise[0]
        return 0.5 + 0.7 * shared[0] + 0.7 * shared[1] + noise[1], gold, np.arange(prompts).repeat(2)

    truth = inherited(*draw(100_000)[:2])["value"]
    found = [inherited(*draw(60)) for _ in range(300)]
    inside = np.mean([one["low"] <= truth <= one["high"] for one in found])
    alone = np.mean([one["low"] <= truth <= one["high"] for one in (inherited(*draw(60)[:2]) for _ in range(300))])
    assert 0.915 < inside < 0.98 and alone < 0.9


def test_what_is_unknown():
    missing = inherited([1, np.nan, 2], [1, 1, np.nan])
    assert missing["n"] == 1 and (missing["value"], missing["low"], missing["wins"]["low"]) == (0, None, None)
    ties = inherited([0, 0], [1, 1])
    assert (ties["value"], ties["judge_gain"], ties["gold_gain"]) == (None, None, 1) and ties["wins"]["value"] == -0.5
    nothing = inherited([], [])
    assert nothing["n"] == 0 and nothing["wins"]["value"] is nothing["judge_wins"]["value"] is None
    assert inherited_text(nothing | NAMES).startswith("No pair of replies, ppo over sft, has")


def test_the_sentence_says_who_gained():
    rng = np.random.default_rng(2)
    gold = rng.choice([-1.0, 1.0], 400)
    judge = np.where(rng.random(400) < 0.3, 1.0, gold)
    text = inherited_text(inherited(judge, gold, equal=2) | NAMES)
    assert "The judge prefers ppo over sft on 6" in text and "402 pairs (2 of them equal replies" in text
    assert text.endswith("The difference is a gain with the judge alone.")
    assert inherited_text(inherited(gold, judge) | NAMES).endswith("The judge sees less of the gain than gold.")
    assert inherited_text(inherited(gold, gold) | NAMES).endswith("They do not differ beyond chance.")
