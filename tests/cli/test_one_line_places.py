"""Where a stage without a recipe goes, and what it leaves alone: the results of other recipes and of other models."""

import argparse
import json
import os
from pathlib import Path

import base_models
import pytest

import align
from alignment.cli.train import one_line, recipe_place, smoke_runs
from alignment.cli.train.fitted_to import fitted
from alignment.cli.train.one_line import normal
from alignment.cli.train.recipe_place import Place, place_of, require_same_model, require_unclaimed, write
from alignment.cli.train.stage import add_arguments
from alignment.errors import UserError
from alignment.pipeline.graph import load_stage
from alignment.pipeline.plan import Step
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.runner import check_replaceable
from alignment.report.charts.diagram import pipeline_svg


def stage(run_dir, name, parents=(), status="done", steps=100, recipe_file=None, model="../seed"):
    """A stage's folder and its entry in pipeline.json, as a run leaves them."""
    folder, record = Path(run_dir) / name, RunRecord(Path(run_dir))
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint/config.json").write_text("{}")
    named = {f"parent_{number}": parent for number, parent in enumerate(parents)}
    if status == "done":
        (folder / "stage.json").write_text(json.dumps({"parents": named}))
    recipe = {"model_name_or_path": parents[0] if parents else model, "max_steps": steps}
    entry = {"status": status, "parents": named, "recipe": recipe}
    record.replace("stages", name, **entry, recipe_file=str(recipe_file or f"{run_dir}/{name}.yaml"))
    return folder / "checkpoint"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """runs/seed: sft, reward, dpo from sft, ppo from dpo and reward; in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, parents in {"sft": [], "reward": ["sft"], "dpo": ["sft"], "ppo": ["dpo", "reward"]}.items():
        stage("runs/seed", name, parents)
    return Path("runs/seed")


def place(*arguments):
    found = place_of(*arguments)
    return str(found.folder), found.parent


def test_a_stage_never_takes_the_place_of_an_ancestor(runs):
    assert place("sft", "runs/seed/dpo/checkpoint", None) == ("runs/seed/sft2", "dpo")
    assert place("reward", "runs/seed/ppo/checkpoint", None) == ("runs/seed/reward2", "ppo")  # not only first parents
    assert place("sft", "runs/seed/ppo", None) == ("runs/seed/sft2", "ppo")
    assert place("reward", "runs/seed/dpo/checkpoint", None) == ("runs/seed/reward", "dpo")  # no ancestor of dpo
    stage("runs/seed", "sft2", ["dpo"])
    assert place("sft", "runs/seed/sft2/checkpoint", None) == ("runs/seed/sft3", "sft2")
    assert place("dpo", "runs/seed/sft2/checkpoint", None) == ("runs/seed/dpo2", "sft2")
    (runs / "pipeline.json").unlink()  # a copy of the folders alone
    assert place("sft", "runs/seed/dpo/checkpoint", None) == ("runs/seed/sft2", "dpo")


def test_a_named_place_of_an_ancestor_is_refused(runs):
    Path("sft.yaml").write_text("model_name_or_path: dpo\ndataset_name: tinyworld:sft\n")
    pipeline = load_stage("sft", "sft.yaml", (), "runs/seed/sft")
    (spec,) = pipeline.stages
    with pytest.raises(UserError, match="that the parent of this stage was trained from") as raised:
        check_replaceable([Step(spec, "digest", "not run yet")], RunRecord(runs), runs)
    assert raised.value.fix == "--output_dir runs/seed/sft-2"
    by_path = {"model_name_or_path": "runs/seed/dpo/checkpoint"}
    assert RunRecord(runs).ancestors("sft", {"sft": by_path.values()}) == {"dpo", "sft"}


def test_a_record_in_which_a_stage_is_its_own_ancestor_still_has_a_picture():
    svg = pipeline_svg({"sft": {"parent": "dpo"}, "dpo": {"parent": "sft"}, "ppo": {"parent": "dpo"}})
    assert svg.count('class="edge"') == 3


def test_a_smoke_run_goes_beside_a_real_run(runs):
    assert place("dpo", "runs/seed/sft/checkpoint", None, True) == ("runs/seed-quick/dpo", None)
    stage("runs/smoke", "sft", steps=2)
    assert place("dpo", "runs/smoke/sft/checkpoint", None, True) == ("runs/smoke/dpo", "sft")


def test_a_smoke_run_that_would_replace_a_real_result_is_refused(runs, capsys):
    Path("dpo.yaml").write_text("model_name_or_path: sft\ndataset_name: tinyworld:preference\n")
    words = ["dpo", "dpo.yaml", "--quick", "--output_dir", "runs/seed/dpo"]
    assert align.main(words) == 2
    said = capsys.readouterr().err
    fix = "--output_dir runs/seed-quick/dpo --model_name_or_path runs/seed/sft/checkpoint"
    assert "--quick would replace a real result" in said and f"fix:      {fix}" in said
    loaded = load_stage("dpo", "dpo.yaml", fix.split()[2:], "runs/seed-quick/dpo", quick=True)
    smoke_runs.require_no_real_result(loaded, alone=True)  # the fix is accepted
    with pytest.raises(UserError, match="--quick") as raised:
        smoke_runs.require_no_real_result(load_stage("dpo", "dpo.yaml", (), "runs/seed/dpo", quick=True), alone=False)
    assert raised.value.fix == "--output_dir runs/seed-quick"
    RunRecord(runs).update("stages", "dpo", recipe={"max_steps": 2})
    smoke_runs.require_no_real_result(load_stage("dpo", "dpo.yaml", (), "runs/seed/dpo", quick=True), alone=True)


@pytest.mark.parametrize("status", ["done", "interrupted"])
def test_the_work_of_another_recipe_is_left_alone(runs, status):
    """Also if a recipe of a command lies beside it, and if the stage was interrupted, so that it has no stage.json."""
    stage("runs/mine", "sft", status=status, recipe_file="h/sft.yaml")
    found = Place(Path("runs/mine/sft"), None)
    with pytest.raises(UserError, match="of another recipe"):
        require_unclaimed(found)
    write(found.recipe, "# command   align sft\nmodel_name_or_path: ../seed\n")
    with pytest.raises(UserError, match="of another recipe") as raised:
        require_unclaimed(found)
    assert raised.value.got == "h/sft.yaml"
    for own in ("runs/mine/sft.yaml", os.path.abspath("runs/mine/sft.yaml")):
        RunRecord(Path("runs/mine")).update("stages", "sft", recipe_file=own)
        require_unclaimed(found)


def test_a_process_killed_while_it_writes_a_recipe_leaves_one_there(tmp_path, monkeypatch):
    recipe = tmp_path / "sft.yaml"
    write(recipe, "a: 1\n")

    def killed(path, text):
        if path == recipe:
            raise KeyboardInterrupt
        path.write_text(text)

    with monkeypatch.context() as patch:
        patch.setattr(recipe_place, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            write(recipe, "a: 2\n")
    assert recipe.read_text() == "a: 1\n"
    write(recipe, "a: 2\n")
    texts = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert texts == {"sft-1.yaml": "a: 1\n", "sft.yaml": "a: 2\n"}  # kept once


def test_two_models_of_one_name_do_not_share_a_run(runs):
    def require(model, run_dir="runs/seed"):
        require_same_model(Place(Path(run_dir) / "grpo", None), model)

    require("../seed")
    require("../seed/")
    with pytest.raises(UserError, match="of another model with this name") as raised:
        require("oth/seed")
    assert raised.value.got == "oth/seed; there ../seed"
    Path("runs/new").mkdir()  # a recipe that was made, and has not run
    Path("runs/new/sft.yaml").write_text("# command   align sft --model a/new\nmodel_name_or_path: a/new\n")
    require("a/new", "runs/new")
    with pytest.raises(UserError, match="there a/new"):
        require("b/new", "runs/new")
    stage("runs/own", "pretrain", model=None)
    with pytest.raises(UserError, match="there random weights"):
        require("b/own", "runs/own")


def test_a_replaced_result_has_a_run_of_its_own(runs):
    stage("runs/seed/previous", "sft-1")
    (runs / "previous/pipeline.json").unlink()
    assert place("dpo", "runs/seed/previous/sft-1/checkpoint", None) == ("runs/seed-sft-1/dpo", None)
    assert place("dpo", "runs/seed/previous/sft-1", None, True) == ("runs/seed-sft-1-quick/dpo", None)


def test_one_path_in_two_spellings_is_one_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m", "m/inner", "elsewhere/deep"):
        Path(name).mkdir(parents=True)
    Path("link").symlink_to("elsewhere/deep")
    assert {normal(name) for name in ("m", "m/", "./m", "m/inner/..")} == {"m"}
    names = ("org/model", "https://host//x.jsonl", "tinyworld:sft?rows=3", "no//such")
    assert [normal(name) for name in names] == [*names]
    assert normal("link/..") == "link/.."  # elsewhere, and not the working folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base model with 20 rows, in the working folder of the tests that use it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(base_models.SIZES, "max_position_embeddings", 512)
        base_models.llama(folder / "base")
    return folder


def rows(count):
    text = "".join(json.dumps({"question": f"What is {n}?", "answer": "Red."}) + "\n" for n in range(count))
    Path("rows.jsonl").write_text(text)


def test_the_same_command_fits_anew_if_data_or_model_have_changed(made, monkeypatch, caplog):
    """As long as the recipe is as it was made; an edited recipe is used with a warning."""
    monkeypatch.chdir(made)
    monkeypatch.setattr(one_line, "_fit", lambda *arguments: None)
    parser = argparse.ArgumentParser(prog="align sft")
    add_arguments(parser)
    args = parser.parse_args(["--model", "base/", "--data", "./rows.jsonl", "--lora"])
    args.verb = "sft"

    def is_made():
        """Whether the command makes a recipe, which is then written."""
        _, begin = one_line.load(args)
        if begin:
            begin()
        return begin is not None

    rows(20)
    assert is_made() and not is_made()
    written = Path("runs/base/sft.yaml")
    assert "model_name_or_path: base\ndataset_name: rows.jsonl\n" in written.read_text()
    rows(600)
    assert is_made() and not is_made()
    config = made / "base/config.json"
    config.write_text(config.read_text() + "\n")
    assert is_made() and not is_made()
    assert not fitted(written).edited
    written.write_text(edited := written.read_text().replace("lora_r: 16", "lora_r: 4"))
    assert fitted(written).edited and not is_made() and not caplog.records
    rows(20)
    assert not is_made() and written.read_text() == edited
    assert "has been edited since: it is used as it is" in caplog.text
