"""`align report A B`: the stages of several runs, paired by item."""

import argparse
import json
import os
import re
import shlex
import shutil
from html import unescape

import pytest
from stored_runs import make_run

from alignment.cli.inspect import report as command
from alignment.errors import UserError
from alignment.report.runs.compared_runs import compare_runs, run_names
from alignment.report.runs.made_differently import differences
from alignment.report.runs.runs_page import render_runs
from alignment.report.runs.runs_text import runs_text

SCORES = {"easy": [1, 1, 1, 1, 0, 1, 1, 1], "hard": [0, 1, 0, 0, 0, 1, 0, 0]}
BETTER = {"easy": [1, 1, 1, 1, 0, 1, 1, 1], "hard": [1, 1, 1, 1, 1, 1, 1, 0]}
STEPS = [{"step": step, "loss": 2.0 - step / 10} for step in range(4)]


def write(folder, seed, stages, recipe, **about):
    """A run with stages of given scores (None: not evaluated), and a recipe for all of them."""
    entries = {}
    for name, scores in stages.items():
        (folder / name / "checkpoint").mkdir(parents=True)
        ended = {"stage": name, "method": name, "seconds": 5, "trainable_parameters": 10, "total_parameters": 10}
        (folder / name / "stage.json").write_text(json.dumps(ended))
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in STEPS))
        entries[name] = {"status": "done", "seed": seed, "recipe": recipe | {"seed": seed}} | about
        if scores:
            make_run(folder / f"evals/{name}-toy-plain", name, scores)
    (folder / "pipeline.json").write_text(json.dumps({"name": folder.name, "seed": seed, "stages": entries}))
    return folder


@pytest.fixture
def runs(tmp_path):
    a = write(tmp_path / "a", 0, {"sft": SCORES, "dpo": SCORES, "reward": None}, {"beta": 0.1}, versions={"trl": "1"})
    stages = {"sft": SCORES, "dpo": BETTER, "reward": None}
    b = write(tmp_path / "b", 1, stages, {"beta": 0.3}, versions={"trl": "2"})
    return [a, b]


def run(*arguments) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(list(map(str, arguments))))


def test_each_stage_and_task_has_its_paired_difference(runs):
    rows = {(row["stage"], row["task"]): row for row in compare_runs(runs)["comparisons"]}
    assert {(row["a"], row["b"]) for row in rows.values()} == {("a", "b")}
    assert set(rows) == {(stage, task) for stage in ("sft", "dpo") for task in ("easy", "hard", "toy")}
    assert rows["dpo", "toy"]["headline"] and not rows["dpo", "hard"]["headline"]
    assert rows["dpo", "hard"]["delta"] == pytest.approx(5 / 8)
    assert (rows["dpo", "hard"]["fixed"], rows["dpo", "hard"]["regressed"]) == (5, 0)
    assert rows["sft", "toy"]["delta"] == 0 and rows["sft", "toy"]["verdict"] == "tied"


def test_what_differs_is_listed_once_for_the_stages_that_share_it(runs):
    found = {entry["key"]: (entry["values"], entry["stages"]) for entry in compare_runs(runs)["differences"]}
    every = ["sft", "dpo", "reward"]
    assert found == {"seed": ([0, 1], every), "beta": ([0.1, 0.3], every), "version of trl": (["1", "2"], every)}


def test_what_cannot_be_compared_is_listed_with_the_reason(runs):
    a, b = runs
    make_run(b / "evals/dpo-other-plain", "dpo", {"x": [1, 0]}, suite="other")
    path = b / "evals/sft-toy-plain/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suite_digest": "changed"}))
    foreign = b / "evals/dpo-older-plain/run.json"
    foreign.parent.mkdir()
    foreign.write_text('{"suite": "older"}')
    shutil.rmtree(a / "dpo")
    record = json.loads((a / "pipeline.json").read_text())
    del record["stages"]["dpo"]
    (a / "pipeline.json").write_text(json.dumps(record))
    found = compare_runs(runs)
    reasons = {(entry["stage"], entry["what"]): entry["reason"] for entry in found["not_compared"]}
    assert reasons["dpo", "other plain"] == "only b has it"
    assert "changed between the runs" in reasons["sft", "toy plain"]
    assert reasons[None, str(foreign)].startswith("is not that of an eval run, got keys suite")
    assert reasons["reward", ""] == "neither run has evaluated it"
    assert {"key": "stage", "values": ["absent", "present"]}.items() <= next(
        entry for entry in found["differences"] if entry["stages"] == ["dpo"]
    ).items()
    for text in (runs_text(found), unescape(render_runs(found, runs))):
        assert all(reason in text for reason in reasons.values())


def test_several_runs_are_each_compared_with_the_first(runs, tmp_path):
    third = write(tmp_path / "c", 2, {"sft": BETTER}, {"beta": 0.1})
    found = compare_runs([*runs, third])
    assert {(row["a"], row["b"]) for row in found["comparisons"]} == {("a", "b"), ("a", "c")}
    shown = runs_text(found)
    assert "b against a" in shown and "c against a" in shown


def test_the_terminal_shows_tied_tasks_on_demand(runs, capsys):
    run(*runs)
    short = capsys.readouterr().out
    assert "b against a" in short and "tied or unknown (--all prints them)" in short
    assert re.search(r"hard, plain +25\.0 +87\.5 +\+62\.5 points", short) is None  # tied after Holm: p 0.0625
    run(*runs, "--all")
    assert re.search(r"hard, plain +25\.0 +87\.5 +\+62\.5 points", capsys.readouterr().out)


def test_the_page_is_written_in_the_first_run_and_replaced_only_by_its_own(runs, tmp_path, capsys):
    page = runs[0] / "report-against-b.html"
    assert run(*runs) == 0
    html = page.read_text()
    assert html.startswith("<!DOCTYPE html>") and "b against a" in html and "DPO: loss, training" in html
    assert str(tmp_path) not in html  # the page is shared: it names no places
    assert capsys.readouterr().out.endswith(f"\n{page}\n")
    run(*runs)
    assert "(replaced: a page of the same runs)" in capsys.readouterr().out
    with pytest.raises(UserError, match="is not a page of this comparison") as raised:
        run(runs[1], runs[0], "--output", page)
    assert page.read_text() == html
    assert raised.value.fix == f"--output {runs[0] / 'report-against-b-2.html'}"
    assert run(runs[1], runs[0], *raised.value.fix.split()) == 0
    report = runs[0] / "report.html"
    report.write_text("the run's own report")
    with pytest.raises(UserError):
        run(*runs, "--output", report)
    assert report.read_text() == "the run's own report"


def test_a_pipe_or_a_broken_link_is_no_page(runs, tmp_path):
    pipe, link = tmp_path / "pi pe", tmp_path / "link.html"
    os.mkfifo(pipe)
    link.symlink_to("gone")
    for place in (pipe, link):
        with pytest.raises(UserError, match="is not a page of this comparison") as raised:
            run(*runs, "--output", place)
        assert raised.value.got.startswith("no regular file")
        assert run(*runs, *shlex.split(raised.value.fix)) == 0
    assert pipe.is_fifo() and link.is_symlink()


def test_mistakes_are_named(runs, tmp_path):
    with pytest.raises(UserError, match="cannot be compared with itself"):
        run(runs[0], runs[0])
    with pytest.raises(UserError) as raised:
        run(runs[0], tmp_path / "nowhere", tmp_path / "gone")
    assert "nowhere is not a run directory" in str(raised.value) and "gone is not a run" in str(raised.value)
    with pytest.raises(UserError, match="--output is for a comparison"):
        run(runs[0], "--output", tmp_path / "page.html")


def test_a_smoke_run_is_named(runs):
    record = json.loads((runs[1] / "pipeline.json").read_text())
    record["stages"]["dpo"]["recipe"]["max_steps"] = 2
    (runs[1] / "pipeline.json").write_text(json.dumps(record))
    found = compare_runs(runs)
    assert runs_text(found).startswith("SMOKE RUN: THE FIGURES MEAN NOTHING: b (dpo)")
    assert "Smoke run: the figures mean nothing." in render_runs(found, runs)


def test_runs_are_named_by_as_many_folders_as_tell_them_apart(tmp_path):
    assert run_names([tmp_path / "x/tiny", tmp_path / "y/tiny"]) == ["x/tiny", "y/tiny"]
    assert run_names([tmp_path / "x/tiny", tmp_path / "x/lora"]) == ["tiny", "lora"]


def test_digests_of_unrecorded_recipes_and_of_data_are_compared():
    sides = [
        {"name": name, "stages": {"sft": {}}, "pipeline": {"stages": {"sft": entry}}}
        for name, entry in (
            ("a", {"recipe_digest": "a" * 64, "data": {"d": "1" * 64}}),
            ("b", {"recipe_digest": "b" * 64, "data": {"d": "2" * 64}}),
        )
    ]
    found = {entry["key"]: entry["values"] for entry in differences(*sides)}
    assert found == {"recipe": ["a" * 12, "b" * 12], "data d": ["1" * 12, "2" * 12]}
    assert differences(sides[0], sides[0]) == []
