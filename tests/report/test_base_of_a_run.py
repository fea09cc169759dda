"""A run that starts from a model outside its directory: that model is the base, wherever its evaluations lie."""

import json
from pathlib import Path

import pytest
from stored_runs import make_run as store

from alignment.errors import UserError
from alignment.report.content import collect
from alignment.report.first_screen.next_steps import next_steps
from alignment.report.first_screen.outcomes import in_sum, outcomes
from alignment.report.render import render
from alignment.report.tables import interval_of, suite_table
from alignment.report.terminal import summary
from eval.comparison.find import match

PARENT = "runs/tiny/pretrain/checkpoint"
WRONG, RIGHT = {"q": [0, 0, 0, 0, 0, 0]}, {"q": [1, 1, 1, 1, 1, 0]}
CHAT = {"format": "chat", "suite": "held-out", "suite_source": "held-out.jsonl"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project in which sft was trained from a parent, without evaluations."""
    monkeypatch.chdir(tmp_path)
    Path(PARENT).mkdir(parents=True)
    write_stages({"sft": PARENT})
    return tmp_path


def make_run(folder, stage, scores, **changes):
    """A stored run of one task, with the task's mean as a value."""
    path = Path(store(folder, stage, scores, **changes), "run.json")
    record = json.loads(path.read_text())
    for figure in record["tasks"]:
        figure["value"] = sum(scores["q"]) / len(scores["q"])
    path.write_text(json.dumps(record))
    return path


def write_stages(parents, run="runs/mine", evals=()):
    """Write a run's record and the stage.json of stages, each with its parent as a recipe names it."""
    for name, parent in parents.items():
        (Path(run) / name / "checkpoint").mkdir(parents=True, exist_ok=True)
        short = Path(parent).parent.name if parent.endswith("checkpoint") else parent
        ended = {"stage": name, "method": name, "parent": short, "parents": {"model_name_or_path": short}}
        (Path(run) / name / "stage.json").write_text(json.dumps(ended))
    stages = {name: {"status": "done", "parents": {"model_name_or_path": one}} for name, one in parents.items()}
    (Path(run) / "pipeline.json").write_text(json.dumps({"stages": stages, "evals": {name: {} for name in evals}}))


def evaluate_sft(**changes):
    make_run("runs/mine/evals/sft-held-out-chat", "sft", RIGHT, **CHAT | {"parent": "pretrain"} | changes)


def headline_rows(report):
    return [(row["a"], row["b"], row["suite"], row["verdict"]) for row in report["comparisons"] if row["headline"]]


BASES = {
    "in its own run directory": ("runs/tiny/evals/pretrain-held-out-chat", PARENT, {}),
    "in runs/evals, in the template given by --chat_template": (
        "runs/evals/llama-held-out-chat-chat_template-1a2b", "models/llama", {"variant": {"chat_template": "1a2b"}},
    ),
    "in runs/evals, by --limit as the pipeline's": (
        "runs/evals/llama-held-out-chat-limit-6",
        "models/llama",
        {"variant": {"limit": 6}, "settings": {"limit": 6}},
    ),
    "of a hub id": ("runs/evals/llama-held-out-chat", "org/llama", {}),
    "in the run directory, by align eval --output_dir": ("runs/mine/evals/llama-held-out-chat", "models/llama", {}),
    "in the run directory, of evals.stages": ("runs/mine/evals/base-held-out-chat", "models/llama", {}),
}  # fmt: skip


@pytest.mark.parametrize("where", BASES)
def test_the_model_that_the_run_starts_from_is_the_base(place, where):
    folder, parent, changes = BASES[where]
    if parent != "org/llama":
        Path(parent).mkdir(parents=True, exist_ok=True)
    write_stages({"sft": parent, "dpo": "runs/mine/sft/checkpoint"})
    evaluate_sft(settings=changes.get("settings", {}))
    stage = "pretrain" if parent == PARENT else Path(folder).name.split("-")[0]
    make_run(folder, stage, WRONG, **CHAT | {"checkpoint": parent} | changes)
    report = collect("runs/mine")
    assert (report["base"], report["base_model"]) == ("base", parent)
    assert headline_rows(report) == [("base", "sft", "held-out", "tied")]
    assert [row["name"] for row in suite_table(report)["rows"]] == ["base", "SFT"]
    found = {row["name"]: row for row in outcomes(report)}
    assert list(found) == ["base", "SFT", "DPO"]
    assert found["base"]["note"] == "the starting point: chat accuracy 0.0%"
    assert found["SFT"]["against"] == "base" and found["SFT"]["main"]["text"].startswith("chat accuracy +83.3 points")
    assert in_sum(report)["title"] == f"SFT against base ({'pretrain' if parent == PARENT else stage_named(parent)})"
    assert report["samples"][0]["outputs"] == {"base": f"{stage} says 0", "sft": "sft says 1"}
    assert report["samples"][0]["change"] == "fixed"
    page, printed = render(report), summary(report)
    assert f"“Base” is {parent}, which this run starts from." in page
    assert "SFT against base\n  chat accuracy +83.3 points" in printed


def stage_named(parent):
    return parent if parent.startswith("org/") else Path(parent).name


@pytest.mark.parametrize(
    ("folder", "stage", "side"),
    [("runs/tiny/evals/pretrain-x", "pretrain", PARENT), ("runs/mine/evals/base-x", "base", "runs/mine/base")],
)
def test_the_comparison_of_the_next_step_finds_the_base(place, folder, stage, side):
    evaluate_sft()
    make_run(folder, stage, WRONG, **CHAT, checkpoint=PARENT)
    steps = {step["what"]: step["command"] for step in next_steps(collect("runs/mine"))}
    assert steps["Compare"] == f"align compare {side} runs/mine/sft/checkpoint --show 5"
    assert "Compare with the base" not in steps
    pairs, _ = match(side, ["runs/mine/sft/checkpoint"])
    assert [(a.record["stage"], b.record["stage"]) for a, b in pairs] == [(stage, "sft")]


def test_without_an_evaluation_of_the_parent_nothing_is_the_base(place):
    """The page proposes the command that evaluates the parent on the same questions, in the same template."""
    evaluate_sft()
    report = collect("runs/mine")
    assert report["base"] is None and report["comparisons"] == []
    (sft,) = outcomes(report)
    assert sft["note"].startswith("chat accuracy 83.3%; pretrain, which it starts from, was not evaluated")
    page = render(report)
    assert "starting point" not in page and "“Base”" not in page and "No stage has been compared" in page
    assert [row["name"] for row in suite_table(report)["rows"]] == ["SFT"]
    command = (
        f"align compare {PARENT} runs/mine/sft/checkpoint --suite held-out.jsonl "
        "--chat_template runs/mine/sft/checkpoint && align report runs/mine"
    )
    assert [step["command"] for step in next_steps(report) if step["what"] == "Compare with the base"] == [command]
    assert command in summary(report)


def test_a_run_that_was_not_evaluated_proposes_a_comparison_with_its_parent(place):
    steps = {step["what"]: step["command"] for step in next_steps(collect("runs/mine"))}
    assert steps["Compare with the base"] == f"align compare {PARENT} runs/mine/sft/checkpoint --suite SUITE"
    assert "Evaluate" not in steps


@pytest.mark.parametrize(
    "changes", [{"suite_digest": "another"}, {"template_digest": "another"}, {"settings": {"limit": 2}}]
)
def test_an_evaluation_of_the_parent_on_other_questions_does_not_count(place, changes):
    evaluate_sft()
    make_run("runs/tiny/evals/pretrain-held-out-chat", "pretrain", WRONG, **CHAT | changes)
    assert collect("runs/mine")["base"] is None


def test_a_damaged_evaluation_of_the_parent_is_passed_over(place, caplog):
    evaluate_sft()
    make_run("runs/tiny/evals/pretrain-held-out-chat", "pretrain", WRONG, **CHAT).write_text("{")
    assert collect("runs/mine")["base"] is None and "passed over" in caplog.text


def test_an_unevaluated_first_stage_makes_no_later_one_the_base(place):
    write_stages({"pretrain": "tokenizer", "sft": "pretrain"})
    entry = {"status": "done", "parents": {"tokenizer_name_or_path": "tokenizer"}}
    record = json.loads(Path("runs/mine/pipeline.json").read_text())
    record["stages"]["pretrain"] = entry
    Path("runs/mine/pipeline.json").write_text(json.dumps(record))
    Path("runs/mine/pretrain/stage.json").write_text(json.dumps({"stage": "pretrain", "method": "pretrain"}))
    evaluate_sft()
    assert (collect("runs/mine")["base"], collect("runs/mine")["base_model"]) == (None, None)
    make_run("runs/mine/evals/pretrain-held-out-chat", "pretrain", WRONG, **CHAT)
    assert collect("runs/mine")["base"] == "pretrain"


def test_suites_run_by_hand_follow_the_pipeline_s_own_and_all_are_named(place):
    """Two suites with one metric and format: their columns, lines and rows say which is meant."""
    own, by_hand = {"suite": "quiz", "parent": "sft"}, {"suite": "sums", "parent": "sft"}
    write_stages({"sft": PARENT, "dpo": "sft"}, evals=("sft-quiz-plain", "dpo-quiz-plain"))
    for stage, scores in (("sft", WRONG), ("dpo", RIGHT)):
        make_run(f"runs/mine/evals/{stage}-quiz-plain", stage, scores, **own)
        make_run(f"runs/mine/evals/{stage}-sums-plain", stage, RIGHT if stage == "sft" else WRONG, **by_hand)
    report = collect("runs/mine")
    assert report["further_suites"] == ["sums"]
    dpo = outcomes(report)[-1]
    assert dpo["main"]["text"].startswith("quiz plain accuracy +83.3 points") and dpo["also"] == {} and not dpo["worse"]
    before, after = summary(report).split("Further evaluations: ")
    assert before.splitlines()[0].split() == ["stage", "quiz:", "accuracy", "(plain)"]
    assert "±: one standard error" in before and "sums" not in before
    assert "sums: accuracy (plain)" in after and "  sums plain accuracy \N{MINUS SIGN}83.3 points" in after
    page = render(report)
    header, rest = page.split("</header>")
    assert "sums" not in header and "quiz plain accuracy" in header
    assert "sums plain accuracy" in rest.split("<h3>Further evaluations</h3>")[1]
    assert "<th>suite, format</th>" in rest and "<td>quiz, plain</td>" in rest and "<td>sums, plain</td>" in rest


def test_a_single_suite_is_not_named_and_no_pipeline_makes_all_suites_its_own(place):
    for suite in ("quiz", "sums"):
        make_run(f"runs/mine/evals/sft-{suite}-plain", "sft", RIGHT, suite=suite)
    assert collect("runs/mine")["further_suites"] == []
    Path("runs/mine/evals/sft-sums-plain/run.json").unlink()
    assert suite_table(collect("runs/mine"))["columns"][0]["suite_named"] is False


def test_a_folder_of_run_directories_is_refused_with_those_inside(place):
    make_run("runs/evals/llama-toy-plain", "llama", RIGHT)
    with pytest.raises(UserError, match="folder of run directories") as raised:
        collect("runs")
    assert raised.value.got == "runs/mine" and raised.value.fix == "align report runs/mine"


@pytest.mark.parametrize(
    ("metric", "value", "interval"), [("exact_match", 0.9, (0.704, 1.0)), ("gold_reward", -0.9, (-1.0, -0.704))]
)
def test_the_interval_of_an_older_run_does_not_leave_the_possible_range(metric, value, interval):
    assert interval_of({"metric": metric, "value": value, "se": 0.1}) == pytest.approx(interval)


def test_the_interval_of_a_difference_does_not_leave_the_possible_range(place):
    """The report has the rows of `align compare`, which cuts them."""
    evaluate_sft()
    make_run("runs/tiny/evals/pretrain-held-out-chat", "pretrain", WRONG, **CHAT)
    (line,) = [row["text"] for row in in_sum(collect("runs/mine"))["items"]]
    assert line.endswith("100.0]")
