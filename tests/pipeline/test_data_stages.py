"""Stages that write rows in a pipeline: who may read them, when they rerun, and several stages of one method."""

import json
import shutil
from pathlib import Path

import pytest

from alignment.errors import UserError, UserErrors
from alignment.pipeline.graph import load_stage
from alignment.pipeline.runner import run_pipeline
from alignment.pipeline.stage_spec import method_of

NAMES = ["words", "base", "replies", "tuned"]


@pytest.fixture
def rounds(project):
    """A language model, its replies, and a model that is tuned on them."""
    stages(project, *NAMES)
    project.write("replies", {"model_name_or_path": "base"})
    project.write("tuned", {"model_name_or_path": "base", "dataset_name": "replies"})
    return project


def stages(project, *names: str) -> None:
    project.set(stages={name: f"{name}.yaml" for name in names})


def problems(project, *overrides: str) -> str:
    """What is wrong with a pipeline that is refused; nothing was written."""
    with pytest.raises((UserError, UserErrors)) as caught:
        project.run(*overrides)
    assert not project.run_dir.exists()
    return str(caught.value)


def test_rows_are_made_read_and_not_made_again(rounds):
    assert rounds.run() == NAMES
    rows = [json.loads(line) for line in (rounds.run_dir / "replies/data/train-00000.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and json.loads(rows[0]["weights"])["seed"] == 3
    weights = json.loads((rounds.run_dir / "tuned/checkpoint/weights.json").read_text())
    assert weights["dataset_name"] == str(rounds.run_dir / "replies/data")
    entry = rounds.record()["stages"]
    assert entry["tuned"]["parents"] == {"model_name_or_path": "base", "dataset_name": "replies"}
    lineage = json.loads((rounds.run_dir / "tuned/checkpoint/lineage.json").read_text())
    assert lineage["parents"]["dataset_name"]["digest"] == entry["replies"]["checkpoint_digest"]
    assert rounds.run() == []


def test_every_key_of_rows_may_name_a_stage(rounds):
    Path("mine.jsonl").write_text('{"text": "x"}\n')
    mixture = [{"name": "mine.jsonl"}, {"name": "replies", "weight": 2}]
    rounds.write("tuned", {"model_name_or_path": "base", "datasets": mixture, "replay_dataset_name": "replies"})
    rounds.run()
    weights = json.loads((rounds.run_dir / "tuned/checkpoint/weights.json").read_text())
    place = str(rounds.run_dir / "replies/data")
    assert weights["datasets"] == [mixture[0], mixture[1] | {"name": place}]
    assert weights["replay_dataset_name"] == place
    parents = rounds.record()["stages"]["tuned"]["parents"]
    assert parents == {"model_name_or_path": "base", "datasets.1.name": "replies", "replay_dataset_name": "replies"}


def test_changed_parents_rerun_the_rows_and_their_readers(rounds, capsys):
    rounds.run()
    assert rounds.run("--base.seed", "9") == ["base", "replies", "tuned"]
    assert rounds.run("--base.seed", "9", "--replies.text", "Goodbye.") == ["replies", "tuned"]
    shutil.rmtree(rounds.run_dir / "replies/data")
    capsys.readouterr()
    assert rounds.run("--base.seed", "9", "--replies.text", "Goodbye.") == ["replies", "tuned"]
    assert "its data is gone" in capsys.readouterr().out


def test_rows_changed_by_hand_are_refused(rounds):
    rounds.run()
    file = rounds.run_dir / "replies/data/train-00000.jsonl"
    file.write_text(file.read_text().replace("Hello.", "Jello."))
    with pytest.raises(UserError, match="replies/data is damaged") as caught:
        rounds.run("--tuned.learning_rate", "0.5")
    assert "train-00000.jsonl has been changed" in str(caught.value)
    assert rounds.ran() == NAMES


@pytest.mark.slow
def test_rows_of_another_run_in_their_place_are_refused(rounds):
    rounds.run()
    run_pipeline(rounds.load("--replies.text", "Other.", output_dir="runs/other"), harness=rounds.harness)
    shutil.rmtree(rounds.run_dir / "replies/data")
    shutil.copytree("runs/other/replies/data", rounds.run_dir / "replies/data")
    with pytest.raises(UserError, match="replies/data is not the data that the stage replies wrote"):
        rounds.run()


def test_a_stage_that_stopped_is_made_again_before_its_readers(rounds):
    with pytest.raises(KeyboardInterrupt):
        rounds.run("--replies.fail", "interrupt")
    assert rounds.record()["stages"]["replies"]["status"] == "interrupted"
    assert rounds.run() == ["replies", "tuned"]


def test_until_a_data_stage(rounds):
    assert rounds.run(until="replies") == NAMES[:3]
    assert rounds.run() == ["tuned"]


def test_a_data_stage_is_no_model(rounds):
    rounds.write("tuned", {"model_name_or_path": "replies"})
    said = problems(rounds)
    assert "tuned.yaml: model_name_or_path names a stage that writes rows, not a model" in said
    assert "the rows of replies are named by dataset_name" in said


@pytest.mark.parametrize("key", ["dataset_name", "replay_dataset_name", "datasets"])
def test_a_model_is_no_rows(rounds, key):
    rounds.write("tuned", {"model_name_or_path": "base", key: [{"name": "base"}] if key == "datasets" else "base"})
    said = problems(rounds)
    name = "datasets.0.name" if key == "datasets" else key
    assert f"tuned.yaml: {name} names a stage that writes no rows" in said
    assert "base (causal-lm)" in said and "for a file or folder of this name: ./base" in said


def test_rows_that_come_later_and_rows_that_never_come(rounds):
    stages(rounds, "words", "base", "tuned", "replies")
    said = problems(rounds)
    assert "dataset_name names a stage that does not run before this one" in said
    assert "list replies above tuned" in said
    stages(rounds, "words", "base", "tuned")
    said = problems(rounds)
    assert "dataset_name names a stage that this pipeline does not have" in said
    assert "list replies in pipeline.yaml, above tuned" in said
    rounds.write("replies", {"model_name_or_path": "base", "dataset_name": "replies"})
    stages(rounds, *NAMES)
    assert "a stage cannot start from itself" in problems(rounds)


def test_rows_are_not_evaluated(rounds):
    rounds.set(evals={"stages": ["tuned", "replies"], "suites": ["facts"]})
    said = problems(rounds)
    assert "evals name a stage that writes rows, not a model" in said and "replies" in said
    rounds.set(evals={"stages": ["tuned"], "suites": ["facts"]})
    assert rounds.run() == NAMES
    assert {stage for stage, *_ in rounds.harness.runs} == {"tuned"}


def test_several_stages_of_a_method(rounds):
    stages(rounds, *NAMES, "replies-second", "tuned-second")
    rounds.write("replies-second", {"model_name_or_path": "tuned"})
    rounds.write("tuned-second", {"model_name_or_path": "tuned", "dataset_name": "replies-second"})
    every = [*NAMES, "replies-second", "tuned-second"]
    assert rounds.run("--tuned-second.learning_rate", "0.25") == every
    weights = json.loads((rounds.run_dir / "tuned-second/checkpoint/weights.json").read_text())
    assert weights["learning_rate"] == 0.25
    assert weights["dataset_name"] == str(rounds.run_dir / "replies-second/data")
    assert json.loads((rounds.run_dir / "tuned/checkpoint/weights.json").read_text())["learning_rate"] == 1e-3
    lineage = json.loads((rounds.run_dir / "tuned-second/checkpoint/lineage.json").read_text())
    assert (lineage["stage"], lineage["method"]) == ("tuned-second", "tuned")
    assert rounds.run("--tuned-second.learning_rate", "0.25", "--tuned.seed", "7") == [
        "tuned", "replies-second", "tuned-second",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["foo-bar", "Tuned", "tuned_2", "tuned-", "tuned2", "../tuned", "tuned-a/b"])
def test_names_that_are_no_stage(rounds, name):
    rounds.write("other", {"model_name_or_path": "base"})
    rounds.set(stages={**rounds.settings["stages"], name: "other.yaml"})
    said = problems(rounds)
    assert f"pipeline.yaml: no stage {name!r}" in said
    assert "a name that begins with one and a hyphen, such as aligned-second" in said


def test_a_misspelt_stage_is_corrected_with_its_suffix(rounds):
    rounds.write("other", {"model_name_or_path": "base"})
    rounds.set(stages={**rounds.settings["stages"], "tunned-2": "other.yaml"})
    assert "did you mean 'tuned" in problems(rounds)


@pytest.mark.parametrize(
    ("name", "method"),
    [("tuned", "tuned"), ("tuned-2", "tuned"), ("tuned2", None), ("mine", None), ("tuned-a-b", "tuned")],
)
def test_the_method_of_a_name(name, method):
    assert method_of(name, "fake_stages") == method


@pytest.mark.parametrize("name", ["replies-of-ours.jsonl", "replies-folder"])
def test_a_file_with_a_name_like_a_stages_is_a_file(rounds, name):
    path = Path(name)
    if not path.suffix:
        path.mkdir()
        path = path / "train.jsonl"
    path.write_text('{"messages": []}\n')
    rounds.write("tuned", {"model_name_or_path": "base", "dataset_name": name})
    assert rounds.load().stages[-1].parents == {"model_name_or_path": "base"}


def test_a_stage_alone_reads_rows_beside_it(rounds):
    rounds.run(until="replies")
    alone = load_stage("tuned", rounds.folder / "tuned.yaml", [], "runs/fake/tuned-b", package="fake_stages")
    run_pipeline(alone, harness=rounds.harness)
    weights = json.loads((rounds.run_dir / "tuned-b/checkpoint/weights.json").read_text())
    assert weights["dataset_name"] == str(rounds.run_dir / "replies/data")


def test_a_stage_alone_names_the_command_that_makes_its_rows(rounds):
    rounds.run(until="base")
    rounds.write("tuned", {"model_name_or_path": "base", "dataset_name": "replies-second"})
    with pytest.raises(UserError, match="dataset_name names a stage that has not been run") as caught:
        load_stage("tuned", rounds.folder / "tuned.yaml", package="fake_stages", output_dir="runs/fake/tuned")
    assert caught.value.fix.startswith("align replies ")
    assert caught.value.fix.endswith("replies-second.yaml --output_dir runs/fake/replies-second")
