"""Reward models in a judge's list of judges: stages and folders are its parents, as the keys of single models are."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_stages
import torch
import yaml

from alignment.errors import UserError, UserErrors
from alignment.models.gpt import GPTForSequenceClassification
from alignment.pipeline.graph import load_pipeline, load_stage
from alignment.pipeline.runner import run_pipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return tiny_stages.make(tmp_path_factory.mktemp("tiny") / "recipes")


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "judge", "scorer")
    return made


def write(folder: Path, judges: list[str], *before: str, **keys) -> Path:
    """A pipeline of a judge stage, with recipes of stages before it."""
    keys = {"judges": judges, "dataset_name": str(folder / "pairs.jsonl"), "max_train_samples": 8} | keys
    Path("recipes").mkdir(exist_ok=True)
    Path("recipes/judge.yaml").write_text(yaml.safe_dump(keys))
    for name in before:
        own = {
            "model_name_or_path": str(folder / "base"),
            "dataset_name": str(folder / tiny_stages.KEYS[name][1]["dataset_name"]),
        }
        Path(f"recipes/{name}.yaml").write_text(yaml.safe_dump(own))
    names = [*before, "judge"]
    stages = {"name": "x", "stages": {name: f"{name}.yaml" for name in names}}
    Path("recipes/pipeline.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    return Path("recipes")


def test_a_changed_checkpoint_judges_again(folder, capsys):
    recipes = write(folder, ["scorer"])
    for changed, says in ((False, "not run yet"), (False, "up to date"), (True, "scorer changed")):
        if changed:
            model = GPTForSequenceClassification.from_pretrained("scorer")
            with torch.no_grad():
                model.score.weight.mul_(-1)
            model.save_pretrained("scorer")
        run_pipeline(load_pipeline(recipes, output_dir="run"))
        assert says in capsys.readouterr().out
    lineage = json.loads(Path("run/judge/data/lineage.json").read_text())
    assert lineage["parents"]["judges.0"]["from"] == "scorer" and lineage["parents"]["judges.0"]["digest"]
    assert json.loads(Path("run/judge/stage.json").read_text())["parents"] == {"judges.0": "scorer"}


def test_a_stages_name_is_its_checkpoint(folder):
    shutil.copytree("scorer", "run/reward/checkpoint")
    Path("run/reward/stage.json").write_text("{}")
    Path("length.py").write_text(
        "def long(completions, **columns):\n    return [len(str(one)) for one in completions]\n"
    )
    write(folder, ["length.py:long", "reward"])
    pipeline = load_stage("judge", "recipes/judge.yaml", [], "run/judge")
    (spec,) = pipeline.stages
    assert spec.parents == {"judges.1": "reward"} and spec.needs("judges.1") == "sequence-classification"
    (args, _) = spec.configs(pipeline.run_dir)
    assert args.judges == ["length.py:long", "run/reward/checkpoint"]
    run_pipeline(pipeline)
    assert json.loads(Path("run/judge/stage.json").read_text())["parents"] == {"judges.1": "reward"}


def test_judges_that_a_pipeline_has_yet_to_train(folder):
    spec = load_pipeline(write(folder, ["reward"], "reward"), output_dir="run").stages[-1]
    assert spec.parents == {"judges.0": "reward"}
    with pytest.raises(UserError, match="does not run before this one"):
        recipes = write(folder, ["reward"], "reward")
        recipes.joinpath("pipeline.yaml").write_text("{name: x, stages: {judge: judge.yaml, reward: reward.yaml}}")
        load_pipeline(recipes, output_dir="run")


@pytest.mark.parametrize(
    ("judges", "says"),
    [
        (["sft"], "checkpoint of the wrong kind"),
        (["sft"], "or judge_model_path: sft"),
        (["./nowhere"], "no such checkpoint"),
        (["judge"], "start from itself"),
        (["run/base"], "wrong kind"),
    ],
)
def test_judges_that_are_no_reward_models_are_refused_before_anything_runs(folder, judges, says):
    shutil.copytree(folder / "base", "run/base")
    with pytest.raises((UserError, UserErrors), match=says) as caught:
        load_pipeline(write(folder, judges, "sft"), output_dir="run")
    assert "judge.yaml: judges.0" in str(caught.value)
