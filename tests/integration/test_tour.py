"""docs/tour.ipynb, run from top to bottom, and the Python API that it uses."""

import json
from pathlib import Path

import pytest

import alignment
from alignment.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = json.loads((ROOT / "docs/tour.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def toured(tmp_path_factory):
    """The names that the notebook's cells leave, and the folder that they ran in."""
    folder, names = tmp_path_factory.mktemp("tour"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALIGN_RECIPES", str(ROOT / "recipes"))
        for number, cell in enumerate(CODE):
            exec(compile(cell, f"docs/tour.ipynb, code cell {number + 1}", "exec"), names)
    return names, folder


def test_the_notebook_has_no_stored_outputs():
    """They would be of another machine, and out of date."""
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in NOTEBOOK["cells"])
    assert CODE and "QUICK = True" in CODE[0]


def test_the_tour_ends_with_a_comparison(toured):
    names, folder = toured
    assert [str(names[name]) for name in ("base", "sft", "dpo")] == [
        f"runs/tour/{stage}/checkpoint" for stage in ("pretrain", "sft", "dpo")
    ]
    rows = names["rows"]
    assert {row["format"] for row in rows} == {"chat"} and all("ci_low" in row for row in rows)
    assert all(row["ci_low"] <= row["delta"] for row in rows if row["ci_low"] is not None)  # few clusters have none
    chain = json.loads((folder / "runs/tour/dpo/stage.json").read_text())["adapter_chain"]["links"]
    assert [link["stages"] for link in chain] == [["sft", "dpo"]]


def test_a_stage_that_is_up_to_date_is_not_trained_again(toured, monkeypatch):
    """Files that a shell made are seen by Python and the other way round: it is one run directory."""
    names, folder = toured
    monkeypatch.chdir(folder)
    before = (folder / "runs/tour/dpo/stage.json").stat().st_mtime_ns
    options = {"model": names["sft"], "data": "pairs.jsonl", "lora": True, "max_length": 128, "quick": True}
    assert alignment.run_stage("dpo", **options) == names["dpo"]
    assert (folder / "runs/tour/dpo/stage.json").stat().st_mtime_ns == before
    import align

    assert align.main(["dpo", "runs/tour/dpo.yaml", "--quick"]) == 0
    assert (folder / "runs/tour/dpo/stage.json").stat().st_mtime_ns == before


def test_an_evaluation_with_another_seed_is_a_run_of_its_own(toured, monkeypatch):
    """As with `align eval --seed 7`: it does not take the place of the run with the run directory's seed."""
    names, folder = toured
    monkeypatch.chdir(folder)
    places = set(Path("runs/tour/evals").iterdir())
    before = {place: (place / "run.json").read_bytes() for place in places}
    alignment.evaluate(names["sft"], "tinyworld", "chat", limit=2, seed=7)
    assert len(set(Path("runs/tour/evals").iterdir()) - places) == 1
    assert before == {place: (place / "run.json").read_bytes() for place in places}


def test_mistakes_are_user_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean 'sft'"):
        alignment.run_stage("stf", "x.yaml")
    with pytest.raises(UserError, match="needs --data"):
        alignment.run_stage("sft", model="m/m")
    with pytest.raises(UserError, match="unknown key 'learning_rte'"):
        alignment.run_stage("sft", ROOT / "recipes/tiny/sft.yaml", learning_rte=1.0)
    with pytest.raises(UserError, match="one by one"):
        alignment.compare("a", ["b", "c"])
    with pytest.raises(UserError, match="no such format"):
        alignment.evaluate("a", "tinyworld", "bad")
    with pytest.raises(UserError, match="lora cannot take this value"):
        alignment.run_stage("sft", model="m/m", data="d", lora="yes")
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        alignment.loda  # noqa: B018
