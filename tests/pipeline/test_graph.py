"""Checks of a pipeline before anything runs."""

import json
from pathlib import Path

import pytest

from alignment.errors import UserError, UserErrors
from alignment.pipeline.graph import load_pipeline, load_stage
from alignment.pipeline.parents import check_outside, kind_of_checkpoint


def checkpoint(folder: Path, **files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_pipeline_is_read(project):
    pipeline = project.load()
    assert [spec.name for spec in pipeline.stages] == ["words", "base", "tuned", "judge", "aligned"]
    assert pipeline.stages[4].parents == {"model_name_or_path": "tuned", "reward_model_path": "judge"}
    assert str(pipeline.run_dir) == "runs/fake"
    settings, options = pipeline.stages[4].configs(pipeline.run_dir)
    assert settings.output_dir == "runs/fake/aligned" and settings.seed == 3
    assert options.reward_model_path == "runs/fake/judge/checkpoint"


def test_mistakes_in_the_keys_of_all_stages_are_reported_together(project):
    project.write("words", {"learning_rat": 1})
    project.write("base", {"tokenizer": "words", "seed": "one"})
    with pytest.raises(UserErrors) as caught:
        project.load()
    text = str(caught.value)
    assert "words.yaml: unknown key 'learning_rat'" in text and "did you mean 'learning_rate'" in text
    assert "base.yaml: seed cannot take this value" in text
    assert not Path("runs").exists()


def test_values_that_stages_refuse_are_reported_together_once_the_keys_are_right(project):
    project.write("words", {"learning_rate": -1})
    project.write("tuned", {"model_name_or_path": "base", "learning_rate": -2})
    with pytest.raises(UserErrors) as caught:
        project.load()
    assert ["-1" in error.got or "-2" in error.got for error in caught.value.errors] == [True, True]
    project.write("base", {"tokenizer": "words", "seed": "one"})
    with pytest.raises(UserError, match="seed cannot take this value"):
        project.load()
    assert not Path("runs").exists()


def test_a_parent_of_the_wrong_kind(project):
    project.write("aligned", {"model_name_or_path": "judge", "reward_model_path": "tuned"})
    with pytest.raises(UserErrors) as caught:
        project.load()
    assert "judge (sequence-classification)" in str(caught.value) and "expected: causal-lm" in str(caught.value)
    assert "tuned (causal-lm)" in str(caught.value) and "expected: sequence-classification" in str(caught.value)


def test_any_checkpoint_serves_as_tokenizer(project):
    project.write("base", {"tokenizer": "words"})
    project.write("judge", {"model_name_or_path": "base"})
    project.load()


def test_a_parent_must_come_first(project):
    stages = {name: f"{name}.yaml" for name in ("words", "tuned", "base")}
    project.set(stages=stages)
    with pytest.raises(UserError, match=r"does not run before(?s:.*)list base above tuned"):
        project.load()


def test_a_stage_cannot_be_its_own_parent(project):
    project.write("tuned", {"model_name_or_path": "tuned"})
    with pytest.raises(UserError, match="cannot start from itself"):
        project.load()


def test_a_parent_that_the_pipeline_lacks(project):
    project.set(stages={"words": "words.yaml", "tuned": "tuned.yaml"})
    with pytest.raises(UserError, match=r"does not have(?s:.*)got: +base"):
        project.load()


def test_a_misspelt_parent(project):
    project.write("judge", {"model_name_or_path": "tuend"})
    with pytest.raises(UserError, match="did you mean 'tuned'"):
        project.load()


def test_a_path_that_does_not_exist(project):
    project.write("tuned", {"model_name_or_path": "runs/other/sft/checkpoint"})
    with pytest.raises(UserError, match="no such folder"):
        project.load()


def test_a_hub_id_is_left_to_the_stage(project):
    project.write("tuned", {"model_name_or_path": "organisation/model"})
    assert project.load().stages[2].outside == {"model_name_or_path": "organisation/model"}


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"config": {"architectures": ["GPTForCausalLM"]}}, "causal-lm"),
        ({"config": {"architectures": ["GPT2LMHeadModel"]}}, "causal-lm"),
        ({"config": {"architectures": ["GPTForSequenceClassification"]}}, "sequence-classification"),
        ({"config": {"architectures": ["SomethingElse"]}}, None),
        ({"adapter_config": {"task_type": "CAUSAL_LM"}, "config": {}}, "causal-lm"),
        ({"adapter_config": {"task_type": "SEQ_CLS"}}, "sequence-classification"),
        ({"tokenizer": {}}, "tokenizer"),
        ({}, None),
    ],
)
def test_kinds_of_checkpoints(tmp_path, files, kind):
    assert kind_of_checkpoint(checkpoint(tmp_path / "c", **files)) == kind


def test_a_path_of_the_wrong_kind(tmp_path):
    folder = checkpoint(tmp_path / "reward", config={"architectures": ["GPTForSequenceClassification"]})
    with pytest.raises(UserError, match=r"got: .*sequence-classification(?s:.*)expected: causal-lm"):
        check_outside("a.yaml: model_name_or_path", str(folder), "causal-lm", [])


def test_the_folder_that_contains_a_checkpoint_suggests_it(tmp_path):
    checkpoint(tmp_path / "sft" / "checkpoint", config={"architectures": ["GPTForCausalLM"]})
    with pytest.raises(UserError, match=r"did you mean .*sft/checkpoint"):
        check_outside("a.yaml: model_name_or_path", str(tmp_path / "sft"), "causal-lm", [])


def test_overrides_reach_stages(project):
    pipeline = project.load("--tuned.learning_rate", "1e-4", "--tuned.options.a", "2", "--evals.limit", "3")
    assert pipeline.stages[2].recipe["learning_rate"] == 1e-4
    assert pipeline.stages[2].recipe["options"] == {"a": 2}
    assert pipeline.evals.options == {"limit": 3}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--tunde.learning_rate", "did you mean 'tuned'"),
        ("--learning_rate", r"--STAGE\.learning_rate"),
    ],
)
def test_an_override_without_a_stage_or_input(project, override, says):
    with pytest.raises(UserError, match=says):
        project.load(override, "1")


def test_inputs(project):
    project.set(inputs={"rows": "JSONL of questions", "text": "a text file", "unused": "never asked for"})
    project.write("tuned", {"model_name_or_path": "base", "dataset_name": "${rows}"})
    project.write("words", {"dataset_name": "${text}"})
    for name in ("a.txt", "b.jsonl", "c.jsonl"):
        Path(name).write_text("rows")
    with pytest.raises(UserError) as caught:
        project.load("--text", "a.txt")
    text = str(caught.value)
    assert "needs inputs that were not given: rows" in text and "--rows  JSONL of questions" in text
    assert f"align run {project.folder} --rows ROWS --text TEXT" in text
    pipeline = project.load("--text", "a.txt", "--rows", "b.jsonl")
    assert pipeline.stages[2].recipe["dataset_name"] == "b.jsonl"
    assert project.load("--text", "a.txt", "--tuned.dataset_name", "c.jsonl").inputs == {"text": "a.txt"}
    alone = load_stage("words", project.folder / "words.yaml", ["--text", "a.txt"], package="fake_stages")
    assert alone.stages[0].recipe["dataset_name"] == "a.txt"


def test_an_input_that_is_not_declared(project):
    project.write("words", {"dataset_name": "${text}"})
    with pytest.raises(UserError, match=r"\$\{text\}"):
        project.load()


def test_mistakes_in_the_data_are_found_before_anything_runs(tmp_path):
    (tmp_path / "odd.jsonl").write_text('{"foo": 1}')
    (tmp_path / "pipeline.yaml").write_text("stages: {tokenizer: words.yaml, pretrain: base.yaml}")
    (tmp_path / "words.yaml").write_text("dataset_name: tinyworld:pretrian")
    (tmp_path / "base.yaml").write_text(f"tokenizer_name_or_path: tokenizer\ndataset_name: {tmp_path}/odd.jsonl")
    with pytest.raises(UserError) as caught:
        load_pipeline(tmp_path)
    assert "pretrian" in caught.value.problem and "pretrain" in caught.value.fix
    (tmp_path / "words.yaml").write_text(f"dataset_name: {tmp_path}/odd.jsonl")
    with pytest.raises(UserErrors) as caught:  # files are read once all sources exist
        load_pipeline(tmp_path)
    assert ["foo" in str(columns) for columns in caught.value.errors] == [True, True]
    (tmp_path / "words.yaml").write_text("dataset_name: texts/*.txt")
    (tmp_path / "base.yaml").write_text("tokenizer_name_or_path: tokenizer\ndataset_name: tinyworld?peeple=3")
    with pytest.raises(UserErrors) as caught:
        load_pipeline(tmp_path)
    assert [error.problem for error in caught.value.errors] == [
        "There is no file texts/*.txt.",
        "Unknown option of tinyworld: peeple.",
    ]


def test_bad_pipeline_files(project, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_pipeline(tmp_path / "nowhere")
    project.set(stage={})
    with pytest.raises(UserError, match="did you mean 'stages'"):
        project.load()
    del project.settings["stage"]
    project.set(stages={"tunde": "tuned.yaml"})
    with pytest.raises(UserError, match="did you mean 'tuned'"):
        project.load()
    project.set(stages={"words": "wrds.yaml"})
    with pytest.raises(UserError, match=r"did you mean .*words\.yaml"):
        project.load()
    project.set(stages={"words": "words.yaml"}, seed="one")
    with pytest.raises(UserError, match="seed cannot take this value"):
        project.load()
    project.set(seed=0, evals={"suites": ["facts"], "stages": ["word"], "formats": ["plane"]})
    with pytest.raises(UserErrors, match="did you mean 'words'") as caught:
        project.load()
    assert "did you mean 'plain'" in str(caught.value)


def test_output_dir_in_a_pipelines_recipe(project):
    project.write("words", {"output_dir": "somewhere"})
    with pytest.raises(UserError, match="sets output_dir"):
        project.load()
    alone = load_stage("words", project.folder / "words.yaml", package="fake_stages")
    assert str(alone.run_dir / alone.stages[0].name) == "somewhere"
    assert (alone.stages[0].name, alone.stages[0].method) == ("somewhere", "words")


@pytest.mark.parametrize(("mistakes", "verb"), [(None, "run"), ({}, "check")])
def test_the_fix_for_missing_inputs_names_the_verb_that_was_typed(mistakes, verb):
    recipe = Path(__file__).parents[2] / "recipes/lora-1gpu"
    with pytest.raises(UserError) as raised:
        load_pipeline(recipe, mistakes=mistakes)
    assert f"fix:      align {verb} " in str(raised.value)
    with pytest.raises(UserError) as raised:
        load_stage("sft", recipe / "sft.yaml", mistakes=mistakes)
    assert f"fix:      align {'sft' if mistakes is None else 'check'} " in str(raised.value)
