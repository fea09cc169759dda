"""What a stage says of itself at its end."""

import pytest
import tiny_stages


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
