"""Where a stage may write, and what it starts from: mistakes are refused before anything is moved."""

import shutil
from pathlib import Path

import pytest
import tiny_stages
import yaml

from alignment.errors import UserError
from alignment.pipeline.graph import load_stage
from alignment.pipeline.runner import run_pipeline


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return tiny_stages.make(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def folder(stages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stages, tmp_path / "s")
    Path("afile").write_text("x")
    Path("foreign/sft").mkdir(parents=True)
    Path("foreign/sft/notes.txt").write_text("x")
    shutil.copytree("s/base", "run/sft/checkpoint")
    Path("run/sft/stage.json").write_text("{}")
    return tmp_path


def begin(output_dir: str, **keys) -> None:
    path = tiny_stages.recipe("sft", Path("s").resolve())
    recipe = yaml.safe_load(path.read_text()) | keys
    path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not None}))
    run_pipeline(load_stage("sft", path, (), output_dir))


@pytest.mark.parametrize(
    ("output_dir", "keys", "said"),
    [
        ("afile/sft", {}, "cannot write afile"),
        ("afile", {}, "afile"),
        ("foreign/sft", {}, "notes.txt"),
        ("s/base", {}, "lie in each other"),
        ("s/base/sft", {}, "lie in each other"),
        ("run/sft", {"model_name_or_path": "run/sft/checkpoint"}, "lie in each other"),
        ("run/sft", {"model_name_or_path": "run/sft"}, "did you mean run/sft/checkpoint"),
        ("run/b", {"model_name_or_path": "run"}, "did you mean run/sft/checkpoint"),
        ("x" * 300 + "/sft", {}, "cannot write xxx"),
        ("new/sft", {"model_name_or_path": None}, "model_name_or_path"),
        ("new/sft", {"model_name_or_path": " "}, "model_name_or_path"),
        ("new/sft", {"model_name_or_path": "afile"}, "afile"),
        ("new/sft", {"model_name_or_path": "no/where/at/all"}, "no such checkpoint"),
    ],
)
def test_a_mistaken_place_is_refused_and_nothing_is_moved(output_dir, keys, said, folder):
    before = sorted(path for path in folder.rglob("*") if path.suffix != ".yaml")
    keys = {key: str(folder / "s/base") for key in ["model_name_or_path"]} | keys
    with pytest.raises(UserError) as raised:
        begin(output_dir, **keys)
    assert said in str(raised.value)
    assert sorted(path for path in folder.rglob("*") if path.suffix != ".yaml") == before
