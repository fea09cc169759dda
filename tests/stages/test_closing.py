"""What a stage says of itself at its end."""

import pytest
import tiny_stages

from alignment.models.loading import load_trainable
from alignment.stages.self_check.probe import compare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_stages.make(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize(
    ("strategy", "every", "at"), [("no", 0, [6]), ("steps", 4, [4, 6]), ("steps", 3, [3, 6])], ids=str
)
@pytest.mark.parametrize("name", ["sft", "reward"])
def test_the_last_weights_are_evaluated_once(name, strategy, every, at, folder, tmp_path):
    keys = {"eval_share": 0.25, "eval_strategy": strategy} | ({"eval_steps": every} if every else {})
    done = tiny_stages.run(name, folder, tmp_path / name, **keys)
    lines = [line for line in tiny_stages.metrics(tmp_path / name) if "eval_loss" in line]
    assert [line["step"] for line in lines] == at
    told = [key for key in done["metrics"] if key.startswith("eval_")]
    assert len(told) == 2 and all(done["metrics"][key] == pytest.approx(lines[-1][key]) for key in told)


@pytest.mark.parametrize("name", ["sft", "reward", "dpo"])
def test_the_probe_is_computed_in_the_type_of_the_weights(name, folder, tmp_path):
    """A stage that trains in 16 bit leaves a probe by which the next stage recognises the checkpoint."""
    done = tiny_stages.run(name, folder, tmp_path / name, bf16=True, max_steps=1)
    kind = "sequence-classification" if name == "reward" else "causal-lm"
    (outcome,) = compare("probe", done["probe"], load_trainable(str(tmp_path / name / "checkpoint"), kind))
    assert outcome.difference < 1e-6
