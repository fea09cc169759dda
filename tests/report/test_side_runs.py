"""Runs of a stage that a rerun replaced, and variants of a stage, against the stage as it is."""

import json
import shutil

import pytest
from stored_runs import make_run

from alignment.pipeline.records.previous import RECORD, set_aside
from alignment.report.content import collect
from alignment.report.recipe_changes import UNSET, changed_keys
from alignment.report.render import render
from alignment.report.side_sections import side_sections

BEFORE = {"beta": 0.1, "lora": {"r": 8}, "seed": 0}
AFTER = {"beta": 0.3, "lora": {"r": 8}, "seed": 0, "loss_type": "ipo"}


def stage(run_dir, name, recipe, scores=None, method="dpo"):
    """A finished stage with its record, and an evaluation."""
    (run_dir / name / "checkpoint").mkdir(parents=True)
    ended = {"stage": name, "method": method, "parent": "base", "seconds": 9, "metrics": {"train_loss": len(recipe)}}
    (run_dir / name / "stage.json").write_text(json.dumps(ended))
    if scores:
        make_run(run_dir / f"evals/{name}-toy-plain", name, {"facts": scores}, parent="base")
    path = run_dir / "pipeline.json"
    record = json.loads(path.read_text()) if path.exists() else {"name": "mine", "stages": {}}
    record["stages"][name] = {"status": "done", "seed": 0, "recipe": recipe}
    path.write_text(json.dumps(record))
    return record["stages"][name]


@pytest.fixture
def rerun(tmp_path):
    """DPO, rerun with another beta."""
    entry = stage(tmp_path, "dpo", BEFORE, [0, 0, 0, 1, 1, 0])
    set_aside("dpo", tmp_path, entry)
    stage(tmp_path, "dpo", AFTER, [1, 1, 1, 1, 1, 0])
    return tmp_path


def test_a_replaced_run_is_shown_with_its_changes_and_paired_scores(rerun):
    report = collect(rerun)
    (entry,) = report["side_runs"]
    assert (entry["stage"], entry["folder"], entry["replaced"]) == ("dpo", "previous/dpo-1", True)
    assert entry["changes"] == [{"key": "beta", "a": 0.1, "b": 0.3}, {"key": "loss_type", "a": UNSET, "b": "ipo"}]
    row = next(row for row in entry["comparisons"] if row["headline"])
    assert (row["value_a"], row["value_b"]) == (pytest.approx(2 / 6), pytest.approx(5 / 6))
    page = render(report)
    assert 'href="#other-runs">1 other run of these stages' in page
    assert "DPO as it is now against previous/dpo-1" in page and "plain accuracy +50.0 points" in page
    assert "train_loss 3, 4" in page


def test_a_replaced_run_without_evaluations_says_how_to_evaluate_it(rerun):
    shutil.rmtree(rerun / "previous/dpo-1/evals")
    report = collect(rerun)
    (section,) = side_sections(report)
    assert section["commands"] == [f"align eval {rerun}/previous/dpo-1/checkpoint --suite toy"]
    assert section["commands"][0] in render(report)
    # What the command writes is found: RUN/previous/evals.
    make_run(rerun / "previous/evals/dpo-1-toy-plain", "dpo-1", {"facts": [0, 0, 0, 0, 0, 0]})
    (entry,) = collect(rerun)["side_runs"]
    assert next(row for row in entry["comparisons"] if row["headline"])["value_a"] == 0


def test_only_runs_of_the_same_measurement_are_paired(rerun):
    make_run(rerun / "evals/dpo-other-plain", "dpo", {"facts": [1, 0]}, suite="other", parent="base")
    (entry,) = collect(rerun)["side_runs"]
    assert {row["suite"] for row in entry["comparisons"]} == {"toy"} and entry["not_compared"] == []


def test_runs_that_cannot_be_compared_say_why(rerun):
    path = next(rerun.glob("previous/dpo-1/evals/*/run.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suite_digest": "other"}))
    report = collect(rerun)
    assert report["side_runs"][0]["comparisons"] == []
    assert "changed between the runs" in report["side_runs"][0]["not_compared"][0]
    assert "Not compared: toy, plain: " in render(report)


def test_a_replaced_run_s_evaluation_of_another_version_is_passed_over(rerun, caplog):
    path = next(rerun.glob("previous/dpo-1/evals/*/run.json"))
    path.write_text(json.dumps({"suite": "toy"}))
    (entry,) = collect(rerun)["side_runs"]
    assert entry["comparisons"] == [] and f"passed over: {path}" in caplog.text


def test_a_run_that_was_replaced_before_recipes_were_kept(rerun):
    (rerun / "previous/dpo-1" / RECORD).unlink()
    report = collect(rerun)
    assert report["side_runs"][0]["changes"] is None
    assert "The recipe of the replaced run was not recorded." in render(report)


def test_the_newest_three_replaced_runs_are_shown(tmp_path):
    for number in range(5):
        set_aside("dpo", tmp_path, stage(tmp_path, "dpo", {"beta": number}))
    stage(tmp_path, "dpo", {"beta": 5})
    assert [entry["changes"][0]["a"] for entry in collect(tmp_path)["side_runs"]] == [2, 3, 4]


def test_a_variant_in_its_own_folder_is_compared_with_the_stage(tmp_path):
    stage(tmp_path, "dpo", BEFORE, [1, 0, 1, 0])
    stage(tmp_path, "dpo-ipo", AFTER, [1, 1, 1, 0])
    stage(tmp_path, "sft", {}, method="sft")
    report = collect(tmp_path)
    (entry,) = report["side_runs"]
    assert (entry["stage"], entry["other"], entry["replaced"]) == ("dpo-ipo", "dpo", False)
    assert [change["key"] for change in entry["changes"]] == ["beta", "loss_type"]
    assert next(row for row in entry["comparisons"] if row["headline"])["delta"] == pytest.approx(0.25)
    assert "dpo-ipo against dpo" in render(report)


def test_a_run_that_nobody_evaluated_needs_no_evaluation(tmp_path):
    entry = stage(tmp_path, "reward", {"seed": 0}, method="reward")
    set_aside("reward", tmp_path, entry)
    stage(tmp_path, "reward", {"seed": 1}, method="reward")
    (section,) = side_sections(collect(tmp_path))
    assert section["commands"] == []
    assert section["changes"] == [{"key": "seed", "a": "0", "b": "1"}]


def test_nested_keys_are_compared_one_by_one():
    a = {"model": {"layers": 2, "heads": 4}, "same": [1]}
    b = {"model": {"layers": 3, "heads": 4}, "same": [1], "new": None}
    assert changed_keys(a, b) == [{"key": "model.layers", "a": 2, "b": 3}, {"key": "new", "a": UNSET, "b": None}]
