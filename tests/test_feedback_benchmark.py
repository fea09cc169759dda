"""benchmarks/feedback.py: gains, ratios with their interval, and targets, by hand values and brute force."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def feedback():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return runpy.run_path(str(FOLDER / "feedback.py"), run_name="imported")


def report(scores):
    return {"evals": [{"stage": stage, "task": task, "value": value} for (stage, task), value in scores.items()]}


def test_the_interval_of_a_ratio_holds_the_ratios_that_a_paired_t_test_does_not_reject(feedback):
    over, under = [0.05, 0.07, 0.09, 0.06], [0.10, 0.11, 0.12, 0.08]
    found = feedback["ratio"](over, under)
    assert found["value"] == pytest.approx(sum(over) / sum(under))
    grid = np.linspace(0, 1.5, 3001)
    kept = [r for r in grid if stats.ttest_1samp(np.array(over) - r * np.array(under), 0).pvalue > 0.05]
    assert [found["low"], found["high"]] == pytest.approx([kept[0], kept[-1]], abs=1e-3)


@pytest.mark.parametrize("under", [[0.1], [0.1, -0.1, 0.05], [0.0, 0.0, 0.0]])
def test_a_ratio_without_an_interval(feedback, under):
    found = feedback["ratio"]([0.05] * len(under), under)
    assert (found["low"], found["high"]) == (None, None)


def test_rlaif_by_hand(feedback):
    gains = {"dpo-gold": 0.10, "dpo-ai": 0.05, "dpo-both": 0.08, "ppo-gold": 0.2, "ppo-ai": -0.1, "ppo-both": 0.1}
    reports = [
        report(
            {("base", "tinyworld_gold"): 0.5} | {(name, "tinyworld_gold"): 0.5 + gain for name, gain in gains.items()}
        )
        for _ in range(2)
    ]
    result = feedback["summary"]("rlaif", reports)
    assert result["figures"]["differences"]["dpo-both - SFT"]["mean"] == pytest.approx(0.08)
    assert result["figures"]["ratios"]["ppo: ai / gold"]["value"] == pytest.approx(-0.5)
    assert result["targets"] == {"dpo-ai: above SFT": True, "ppo-ai: above SFT": False}
    assert not result["met"]
    assert "ppo-ai: above SFT: not met" in feedback["text"](result)


@pytest.mark.parametrize(("loss", "met"), [(0.02, True), (0.04, False)])
def test_the_constitutional_model_may_lose_three_points_of_helpfulness(feedback, loss, met):
    tasks = ("tinyworld_helpful", "tinyworld_harmless", "refuses", "honest", "polite")
    scores = {(stage, task): 0.6 for stage in ("sft-helpful", "sft-cai", "dpo", "ppo") for task in tasks}
    scores |= {(stage, "tinyworld_helpful"): 0.6 - loss for stage in ("dpo", "ppo")}
    scores |= {(stage, "tinyworld_harmless"): 0.9 for stage in ("dpo", "ppo")}
    result = feedback["summary"]("constitutional", [report(scores)] * 3)
    assert result["met"] is met
    assert result["targets"]["dpo: more harmless"]
