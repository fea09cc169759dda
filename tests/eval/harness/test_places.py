"""Where eval runs go, for checkpoints and folders of any name: without a parent, relative, long, in any script."""

import json
import os
from pathlib import Path

import pytest

from eval.harness.place import place_of
from eval.harness.run_suite import evaluate_many
from eval.harness.store import require_not_others, run_name

NAMES = ["m", "a b", "ünï-çödé 漢字", "x" * 250, "per%cent?q=1&b", "-dash", ".hidden", "m.", "'quoted'"]


@pytest.mark.parametrize("given", ["/checkpoint", "/", "/model", "//checkpoint"])
def test_a_checkpoint_at_the_root_has_no_run_directory(given):
    place = place_of(given)
    assert place.stage and place.parent is None
    assert not place.folder.is_absolute()


@pytest.mark.parametrize("given", [".", "./", "../m", "../m/", "m/..", "./."])
def test_a_relative_path_has_the_name_of_its_folder(given, tmp_path, monkeypatch):
    (tmp_path / "m/m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "m")
    assert place_of(given).stage == "m"


@pytest.mark.parametrize("given", [".", "./", "../checkpoint"])
def test_a_stages_checkpoint_is_known_from_within(given, tmp_path, monkeypatch):
    folder = tmp_path / "run/sft/checkpoint"
    folder.mkdir(parents=True)
    (tmp_path / "run/pipeline.json").write_text(json.dumps({"seed": 5}))
    monkeypatch.chdir(folder)
    place = place_of(given)
    assert (place.stage, place.folder.resolve(), place.seed) == ("sft", tmp_path / "run/evals", 5)


@pytest.mark.parametrize("folder", ["r", "./r", "/r", "../r", "a/b/../r"])
def test_a_run_of_any_folder_is_that_of_its_checkpoint(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    require_not_others([Path(folder)], "m", "m")


@pytest.mark.parametrize("name", NAMES)
def test_a_runs_folder_can_be_made_whatever_the_checkpoints_name(name, tmp_path):
    names = [run_name(name, suite, "plain", {}) for suite in ("sums", "sums-2")]
    assert len(set(names)) == 2
    (tmp_path / names[0]).mkdir()


def test_names_that_fit_stay_as_they_are():
    assert run_name("sft", "tinyworld", "chat", {"limit": 2}) == "sft-tinyworld-chat-limit-2"


@pytest.mark.parametrize("output", [".", "./", "sub/", "..", "new/sub/../"])
def test_results_go_where_they_are_asked_for(output, tmp_path, monkeypatch, model, tokenizer, suite):
    (tmp_path / "here/m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    os.makedirs("new/sub")
    record = evaluate_many("m", [suite], ["plain"], output, stage="m", limit=1, loaded=(model, tokenizer))[0]
    assert json.loads((Path(output) / "m-objects-plain/run.json").read_text())["run_id"] == record["run_id"]
