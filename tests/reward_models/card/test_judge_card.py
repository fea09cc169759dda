"""The judge's card: planted biases are found, an unbiased judge is cleared, and limits say what exceeds them."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit

from reward_models.card.judge_bias import LEAST_PAIRS, holm, length_bias, position_bias, rate, word_bias
from reward_models.card.judge_card import JudgedPairs, beyond_limits, judge_card, judged_pairs
from reward_models.card.judge_card_text import judge_card_markdown, write_judge_card
from reward_models.card.policy_gain import inherited
from reward_models.judges.asked import PairQuestion
from reward_models.judges.panel import JudgeOnPair, PairOpinion

WORDS = np.array([*(f"w{number}" for number in range(30)), "please"])
OFTEN = 1 / np.arange(1, len(WORDS) + 1)
SEEDS = 25


def judged(seed: int, bias: str = "", pairs: int = 300, hard: bool = False, strength: float = 1.2) -> JudgedPairs:
    """Pairs whose gold gap depends on the length, and the answers of a noisy judge that also has a bias."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 20, (2, pairs))
    a, b = (
        np.array([" ".join(rng.choice(WORDS, length, p=OFTEN / OFTEN.sum())) for length in some], dtype=object)
        for some in lengths
    )
    extra = (lengths[0] - lengths[1]) / 6.0
    gaps = rng.normal(size=pairs) + 0.5 * extra
    has = ["please" in str(text).split() for text in (*a, *b)]
    please = np.array(has[:pairs], int) - np.array(has[pairs:], int)
    merit = 1.2 * gaps + strength * {"long": np.sign(extra), "word": please}.get(bias, 0)
    first = strength if bias == "first" else 0
    a_first, b_first = (expit(first + side * merit + rng.normal(size=pairs) / 2) for side in (1, -1))
    if hard:
        a_first, b_first = ((rng.random(pairs) < one).astype(float) for one in (a_first, b_first))
    return JudgedPairs(a_first, b_first, a, b, gaps)


def found(card: dict) -> set[str]:
    """The biases that a card shows."""
    biases = {"first": card["position_bias"], "long": card["length_bias"]}
    return {name for name, one in biases.items() if not one["low"] <= 0 <= one["high"]} | (
        {"word"} if card["words"]["found"] else set()
    )


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("bias", ["first", "long", "word"])
def test_planted_biases_are_found(bias, hard):
    card = judge_card(judged(1, bias, hard=hard))
    assert found(card) == {bias}
    limits = {"max_position_bias": 0.05, "max_length_bias": 0.03}
    expected = {"first": ["position bias"], "long": ["length bias"], "word": []}[bias]
    assert [one[: len(name)] for one, name in zip(beyond_limits(card, **limits), expected, strict=True)] == expected
    if bias == "word":
        [word] = card["words"]["found"]
        assert word["words"] == ["please"] and word["value"] > 0.1


def alarms(seeds: int) -> dict[str, float]:
    shown = [found(judge_card(judged(seed, hard=seed % 2 == 0))) for seed in range(seeds)]
    return {name: sum(name in one for one in shown) / seeds for name in ("first", "long", "word")}


def test_an_unbiased_judge_is_cleared():
    """Longer replies are better here, so that an unbiased judge prefers them; false alarms are at most about 5%."""
    assert max(alarms(SEEDS).values()) <= 0.16  # 4 of 25: more happen with a probability of 0.7%
    pairs = judged(3)
    uncontrolled = judge_card(dataclasses.replace(pairs, gold_gaps=None))
    assert "long" in found(uncontrolled) and not uncontrolled["controlled_for_gold"] and "agreement" not in uncontrolled


@pytest.mark.slow
def test_false_alarms_are_at_the_stated_level():
    rates = alarms(600)
    assert 0.03 <= rates["first"] <= 0.075 and 0.03 <= rates["long"] <= 0.075 and rates["word"] <= 0.07


def test_a_judge_without_any_error_has_no_bias():
    """Gold prefers longer replies, and predicts every verdict, so that nothing is left for the length."""
    pairs = judged(1)
    sign = np.sign(pairs.gold_gaps)
    right = dataclasses.replace(pairs, a_first=(1 + sign) / 2, b_first=(1 - sign) / 2, gold_gaps=sign)
    card = judge_card(right)
    assert found(card) == set() and card["agreement"]["value"] == 1.0 and card["consistency"]["value"] == 1.0
    assert [card["length_bias"][key] for key in ("value", "low", "high")] == [0.0, 0.0, 0.0]  # no rounding errors
    assert card["calibration"]["ece"] == 0.0
    extra = np.array([1.0, -1.0] * 20)
    always = length_bias((1 + extra) / 2, extra)
    assert (always["value"], always["low"], always["high"]) == pytest.approx((0.5, 0.5, 0.5))


def test_position_bias_and_consistency():
    assert position_bias(np.ones(50), np.ones(50))["value"] == 0.5
    fair = position_bias(np.array([1.0, 0.0] * 50), np.array([0.0, 1.0] * 50))
    assert fair["value"] == 0.0 and fair["low"] < 0 < fair["high"]
    last = position_bias(np.full(50, 0.4), np.full(50, 0.3))
    assert last["value"] == -0.5 and last["high"] < -0.4
    texts = np.array(["a b", "c"], dtype=object)
    card = judge_card(JudgedPairs(np.array([0.9, 0.6]), np.array([0.2, 0.7]), texts, texts[::-1]))
    assert card["consistency"]["value"] == 0.5 and card["position_effect"] == pytest.approx((1.1 + 1.3 - 2) / 4)


def test_pairs_of_a_prompt_count_as_dependent():
    values, prompts = np.repeat([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], 50), np.repeat(np.arange(6), 50)
    alone, together = rate(values), rate(values, prompts)
    assert together["value"] == alone["value"] and together["high"] - together["low"] > 4 * (
        alone["high"] - alone["low"]
    )
    x = np.repeat([1.0, -1.0, 2.0, -2.0, 1.0, -1.0], 50)
    alone, together = length_bias(values, x), length_bias(values, x, clusters=prompts)
    assert together["high"] - together["low"] > 4 * (alone["high"] - alone["low"])


def test_holm():
    assert holm(np.array([0.03, 0.001, 0.02, 0.9]), 0.05) == [1]
    assert holm(np.array([0.01, 0.001, 0.02, 0.9]), 0.05) == [1, 0, 2] and holm(np.array([]), 0.05) == []


def test_words_that_are_rare_or_always_together():
    a = ["Red blue, x"] * LEAST_PAIRS + ["rare"] * (LEAST_PAIRS - 1)
    b = ["x"] * LEAST_PAIRS + ["other words"] * (LEAST_PAIRS - 1)
    preferences = np.array([0.9] * LEAST_PAIRS + [0.5] * (LEAST_PAIRS - 1)) + np.arange(2 * LEAST_PAIRS - 1) / 1000
    words, presences, tested = word_bias(preferences, a, b)
    assert tested == 1 and [one["words"] for one in words] in ([["blue", "red"]], []) and len(presences) == len(words)
    assert word_bias(np.array([0.5]), ["a"], ["b"]) == ([], [], 0)


def test_agreement_by_principle_and_family(tmp_path):
    pairs = judged(2, pairs=400)
    named = dataclasses.replace(
        pairs,
        principles=np.array(["kind", "honest"] * 200, dtype=object),
        families=np.array(["maths"] * 400, dtype=object),
        gold_gaps=np.where(np.arange(400) % 2 == 0, pairs.gold_gaps, -pairs.gold_gaps),
    )
    card = judge_card(named)
    honest, kind = card["by_principle"]
    assert (honest["name"], kind["name"], kind["n"]) == ("honest", "kind", 200)
    assert kind["low"] > 0.7 and honest["high"] < 0.3 and card["by_family"][0]["value"] == card["agreement"]["value"]
    [beyond] = beyond_limits(card, min_agreement=0.7)
    assert beyond.startswith("agreement on honest 0.1") and "on 200 pairs" in beyond
    assert len(beyond_limits(judge_card(pairs.where(np.arange(400) < 8)), min_agreement=0.7)) == 1  # too few pairs
    assert beyond_limits(judge_card(dataclasses.replace(pairs, gold_gaps=None)), min_agreement=0.5) == [
        "agreement: unknown, as no pair has a gold preference"
    ]
    card["inherited"] = {"policy": "ppo", "baseline": "sft"} | inherited([3.0, 4.0, 6.0], [1.0, -2.0, 2.5])
    write_judge_card(tmp_path / "new", card, "org/judge")
    assert json.loads((tmp_path / "new/judge_card.json").read_text()) == json.loads(json.dumps(card))
    text = (tmp_path / "new/judge_card.md").read_text()
    for part in ("# Judge's card of org/judge", "| honest", "position", "Calibration", "Inherited by the policy"):
        assert part in text
    assert "nan" not in text and judge_card_markdown(judge_card(pairs.where(np.zeros(400, bool)))).endswith("any pair.")


def test_pairs_without_gold_count_for_position_alone():
    pairs = judged(4)
    gaps = np.where(np.arange(300) < 200, pairs.gold_gaps, np.nan)
    gaps[0] = 0.0  # a tie in gold: no agreement, but a control
    part, whole = judge_card(dataclasses.replace(pairs, gold_gaps=gaps)), judge_card(pairs)
    assert part["position_bias"] == whole["position_bias"] and part["length_bias"]["n"] == 200 and part["gold"] == 199


def test_calibration_uses_the_confidence():
    """A judge that is right with the probability that it states, and one that always states 0.99."""
    rng = np.random.default_rng(0)
    stated = rng.uniform(0.5, 1.0, 4000)
    gold = np.where(rng.random(4000) < stated, 1.0, -1.0)
    texts = np.array([""] * 4000, dtype=object)
    honest = judge_card(JudgedPairs(stated, 1 - stated, texts, texts, gold))["calibration"]
    sure = np.full(4000, 0.99)
    boastful = judge_card(JudgedPairs(sure, 1 - sure, texts, texts, gold))["calibration"]
    assert honest["ece"] < 0.04 and boastful["ece"] == pytest.approx(0.99 - (gold > 0).mean())
    assert len(honest["bins"]) == 10 and honest["brier"] < boastful["brier"]


def test_the_answers_of_a_panel_as_columns():
    def opinion(*answers):
        seen = tuple(
            JudgeOnPair(name, first, second, None if first is None else (first + 1 - second) / 2, None, None, True)
            for name, first, second in answers
        )
        return PairOpinion(None, "", seen)

    pairs = [PairQuestion("q", "a", "b"), PairQuestion("r", "a", "b"), PairQuestion("q", "a", [{"content": "c"}])]
    opinions = [opinion(("x", 0.8, 0.4), ("y", 0.6, 0.2)), opinion(), opinion(("x", None, 0.4), ("y", 0.6, 0.2))]
    columns = judged_pairs(pairs, opinions, [1.0, 2.0, None], principles=["p", "q", "r"])
    assert columns.a_first.tolist() == pytest.approx([0.7, 0.6]) and columns.b_first.tolist() == pytest.approx(
        [0.3, 0.2]
    )
    assert columns.texts_b.tolist() == ["b", "c"] and columns.prompts.tolist() == [0, 0]
    assert columns.gold_gaps[0] == 1.0 and np.isnan(columns.gold_gaps[1]) and columns.principles.tolist() == ["p", "r"]
    assert judged_pairs(pairs, opinions, judge="x").a_first.tolist() == [0.8]
