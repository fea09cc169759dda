"""The model card: what it says of a checkpoint, and the reward card that a reward model's carries."""

import json
import re

import pytest
import yaml

from alignment.stages.shared.model_card import write_card
from alignment.stages.shared.result import StageResult

PAIRWISE = {
    "n": 8,
    "accuracy": 0.75,
    "se": 0.16,
    "length_rule": "longer",
    "length_baseline": 0.625,
    "by_subset": [{"name": "refusal", "n": 8, "accuracy": 0.75, "se": 0.16}],
}


def result(method: str, **metrics) -> StageResult:
    return StageResult(
        stage=method,
        method=method,
        checkpoint="",
        parent="sft",
        parents={},
        seconds=12.0,
        peak_memory_gb=0.5,
        trainable_parameters=1_000,
        total_parameters=2_000,
        tokens=3_000,
        metrics=metrics,
    )


@pytest.mark.parametrize("adapter", [False, True])
def test_a_reward_models_card_carries_its_reward_card(tmp_path, adapter):
    if adapter:
        (tmp_path / "adapter_config.json").write_text("{}")
    write_card(tmp_path, result("reward", loss=0.5, pairwise=PAIRWISE), "pairs.jsonl")
    card = (tmp_path / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    library = "peft" if adapter else "transformers"
    assert yaml.safe_load(front) == {"library_name": library, "tags": ["alignment-pipeline", "reward"]}
    assert "## Reward card" in body and "Accuracy **75.0%** on 8 pairs" in body and "reply would have 62.5%" in body
    assert "| refusal | 8 | 75.0% |" in re.sub(" +", " ", body) and "| loss | 0.5 |" in body
    assert ("AutoPeftModelForSequenceClassification" in body) == adapter
    assert json.loads((tmp_path / "reward_card.json").read_text()) == PAIRWISE
    assert "75.0%" in (tmp_path / "reward_card.md").read_text()


def test_other_models_have_no_reward_card(tmp_path):
    write_card(tmp_path, result("sft", loss=0.5), "rows.jsonl")
    card = (tmp_path / "README.md").read_text()
    assert "Reward card" not in card and "1,000 of 2,000 parameters, 3,000 tokens, 12 s" in card
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
