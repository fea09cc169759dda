"""The report of a pipeline with other stages and suites than those of recipes/tiny."""

import json
import re

import pytest
from stored_runs import make_run

from alignment.report.content import collect
from alignment.report.headlines import headlines
from alignment.report.render import render
from alignment.report.samples import PROMPTS
from alignment.report.tables import verdicts

PARENTS = {"words": None, "base": None, "tuned": "base", "aligned": "tuned"}
QUIZ = {
    "base": {"easy": [1, 0, 0, 0], "hard": [0, 0, 0, 0]},
    "tuned": {"easy": [1, 1, 0, 1], "hard": [1, 0, 1, 0]},
    "aligned": {"easy": [0, 1, 1, 1], "hard": [1, 1, 1, 0]},
}
STYLE = {"base": [2.0, 3.0, 1.0], "tuned": [5.0, 7.0, 4.0], "aligned": [6.0, 7.5, 8.0]}


@pytest.fixture
def run_dir(tmp_path):
    """Stages of fake_stages, a suite of two tasks and a graded one whose only task has another name."""
    folder = tmp_path / "mine"
    for name, parent in PARENTS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "stage.json").write_text(json.dumps({"stage": name, "method": name, "parent": parent}))
    settings(folder)
    for name, scores in QUIZ.items():
        about = {"parent": PARENTS[name]}
        make_run(folder / f"evals/{name}-quiz-plain", name, scores, **about, suite="quiz")
        figure = {"task": "politeness", "metric": "rating", "is_mean": True, "value": sum(STYLE[name]) / 3}
        tasks = [figure | {"higher_is_better": True, "members": None, "pooled": False}]
        make_run(
            folder / f"evals/{name}-style-plain", name, {"politeness": STYLE[name]}, metric="rating",
            **about, suite="style", tasks=tasks,
        )  # fmt: skip
    return folder


def settings(folder, **report) -> None:
    """Write a pipeline.json with its stages, its evals in the order of the pipeline, and the report's keys."""
    evals = {f"{stage}-{suite}-plain": {} for stage in QUIZ for suite in ("style", "quiz")}
    content = {"name": "mine", "stages": {name: {} for name in PARENTS}, "evals": evals, "report": report}
    (folder / "pipeline.json").write_text(json.dumps(content))


def represented(report: dict) -> set[tuple[str, str]]:
    return {(row["suite"], row["task"]) for row in report["evals"] if row["headline"]}


def test_defaults_are_first_evaluated_stage_aggregates_and_first_suite_with_answers(run_dir):
    report = collect(run_dir)
    assert report["base"] == "base"
    assert represented(report) == {("quiz", "toy"), ("style", "politeness")}
    pairs = {(row["a"], row["b"]) for row in report["comparisons"]}
    assert pairs == {("base", "tuned"), ("tuned", "aligned"), ("base", "aligned")}
    titles = [sentence["title"] for sentence in verdicts(report)]
    assert titles == ["tuned against base", "aligned against tuned"]
    assert {sample["suite"] for sample in report["samples"]} == {"style"}
    assert list(report["samples"][0]["outputs"]) == list(QUIZ)


def test_keys_of_the_pipeline_choose_base_headline_and_samples(run_dir):
    settings(run_dir, base="tuned", headline={"quiz": "hard"}, samples={"suite": "quiz", "n": 4})
    report = collect(run_dir)
    assert report["base"] == "tuned"
    assert represented(report) == {("quiz", "hard"), ("style", "politeness")}
    pairs = {(row["a"], row["b"]) for row in report["comparisons"]}
    assert pairs == {("tuned", "base"), ("base", "tuned"), ("tuned", "aligned")}
    assert {(row["suite"], row["task"]) for row in report["comparisons"] if row["headline"]} == represented(report)
    shown = [(sample["suite"], sample["task"], sample["change"]) for sample in report["samples"]]
    assert shown == [
        ("quiz", "easy", "regressed"), ("quiz", "easy", "fixed"), ("quiz", "hard", "fixed"), ("quiz", "hard", None),
    ]  # fmt: skip


def test_a_graded_suite_shows_its_first_prompts_without_right_or_wrong(run_dir):
    samples = collect(run_dir)["samples"]
    assert [sample["prompt"] for sample in samples] == ["politeness 0?", "politeness 1?", "politeness 2?"]
    assert all(set(sample["correct"].values()) == {None} and sample["change"] is None for sample in samples)


def test_a_score_of_any_metric_has_its_chart_and_the_page_names_no_other_pipeline(run_dir):
    page = render(collect(run_dir))
    assert "<h4>Rating, plain format</h4>" in page and "“Base” is the base stage" in page
    visible = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    assert not re.findall(r"tinyworld|pretrain|gold|clean text|\bSFT\b", visible)


def test_prompts_are_shared_evenly_among_tasks(run_dir):
    scores = {f"task{number:02}": [1, 0, 1] for number in range(PROMPTS + 5)}
    for stage in QUIZ:
        make_run(run_dir / f"evals/{stage}-wide-plain", stage, scores, suite="wide", parent=PARENTS[stage])
    settings(run_dir, samples={"suite": "wide"})
    assert [sample["task"] for sample in collect(run_dir)["samples"]] == list(scores)[:PROMPTS]
    settings(run_dir, samples={"suite": "quiz"})
    assert len(collect(run_dir)["samples"]) == 8


@pytest.mark.parametrize(
    ("figures", "task", "expected"),
    [
        ([("all", "acc", ["a", "b"]), ("part", "acc", ["a"]), ("a", "acc", None)], None, {("all", "acc")}),
        ([("all", "acc", ["a"]), ("a", "acc", None)], "a", {("a", "acc")}),
        ([("mine", "acc", None), ("mine", "f1", None), ("b", "acc", None)], None, {("mine", "acc"), ("mine", "f1")}),
        ([("a", "acc", None), ("a", "f1", None)], None, {("a", "acc"), ("a", "f1")}),
        ([("a", "acc", None), ("b", "acc", None)], None, set()),
    ],
)
def test_figures_that_represent_a_suite(figures, task, expected):
    tasks = [{"task": name, "metric": metric, "members": members} for name, metric, members in figures]
    assert headlines({"suite": "mine", "tasks": tasks}, task) == expected
