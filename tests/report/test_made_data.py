"""Data stages in report.json and on the page, and several stages of one method."""

import argparse
import csv
import io
import json
import shutil
from urllib.parse import unquote

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from alignment.cli.inspect import info as info_verb
from alignment.durable.manifest import write_manifest
from alignment.errors import UserError
from alignment.report.content import collect
from alignment.report.first_screen.next_steps import next_steps
from alignment.report.first_screen.outcomes import outcomes
from alignment.report.labels import stage_name, stage_tone
from alignment.report.live.run_state import read_state
from alignment.report.live.screen import closing_lines, screen
from alignment.report.made_data.rows_sections import histogram_figures
from alignment.report.render import page, render
from alignment.report.runs.compared_runs import compare_runs
from alignment.report.runs.runs_page import render_runs
from alignment.report.runs.runs_text import runs_text
from alignment.report.terminal import summary

COUNTS = {"replies": 24, "prompts without a row: all replies the same": 2}


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def pair(number: int) -> dict:
    chosen, rejected = number / 4, None if number == 3 else -number / 4
    return {
        "prompt": [{"role": "user", "content": f"question {number} <b>"}],
        "chosen": said("good " * (900 if number == 0 else 1)),
        "rejected": said("bad"),
        "score_chosen": chosen,
        "score_rejected": rejected,
        "score_margin": float("nan") if rejected is None else chosen - rejected,
        "preference": 0.5 + number / 20,
        "principle": "be kind",
    }


def write_data_stage(run_dir, name="sample", rows=None, **entry) -> None:
    """A finished data stage; its rows in two files."""
    rows = [pair(number) for number in range(10)] if rows is None else rows
    folder = run_dir / name / "data"
    folder.mkdir(parents=True)
    account = {"read": 12, "rows": len(rows), "kind": "preference", "counts": COUNTS, "tokens": 480}
    for number, part in enumerate(filter(None, (rows[:6], rows[6:]))):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), folder / f"train-{number:05}.parquet")
    (folder / "account.json").write_text(json.dumps(account))
    stage = {"stage": name, "method": "sample", "parent": "sft", "parents": {"model_name_or_path": "sft"}}
    metrics = {key: account[key] for key in ("rows", "read", "kind", "counts")}
    sizes = {"trainable_parameters": 0, "total_parameters": 0, "seconds": 8.0, "tokens": 480}
    (run_dir / name / "stage.json").write_text(json.dumps(stage | sizes | {"metrics": metrics}))
    data = {"kind": "prompts", "splits": {"train": 12}, "accounts": [{"source": "questions.jsonl", "split": "train"}]}
    (run_dir / name / "data.json").write_text(json.dumps(data))
    add(run_dir, name, {"status": "done", "parents": {"model_name_or_path": "sft"}} | entry)


def write_reader(run_dir, name: str, source: str) -> None:
    """A DPO stage that was trained on the rows of another stage."""
    shutil.copytree(run_dir / "dpo", run_dir / name)
    stage = json.loads((run_dir / name / "stage.json").read_text()) | {"stage": name, "method": "dpo"}
    (run_dir / name / "stage.json").write_text(json.dumps(stage))
    accounts = [{"source": str(run_dir / source / "data"), "split": "train"}]
    data = {"kind": "preference", "splits": {"train": 10}, "accounts": accounts}
    (run_dir / name / "data.json").write_text(json.dumps(data))
    add(run_dir, name, {"status": "done", "parents": {"dataset_name": source, "model_name_or_path": "sft"}})


def add(run_dir, name: str, entry: dict) -> None:
    record = json.loads((run_dir / "pipeline.json").read_text())
    record["stages"][name] = entry
    (run_dir / "pipeline.json").write_text(json.dumps(record))


@pytest.fixture
def run_dir(tmp_path, small_run):
    """A run without evaluations, to be given data stages."""
    shutil.copytree(small_run, tmp_path / "tiny", ignore=shutil.ignore_patterns("evals", "metrics.jsonl"))
    return tmp_path / "tiny"


@pytest.fixture
def alone(tmp_path):
    """A run without stages, to be given data stages."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/pipeline.json").write_text(json.dumps({"stages": {}, "evals": {}}))
    return tmp_path / "alone"


def test_the_rows_of_a_data_stage_are_in_the_report(run_dir):
    write_data_stage(run_dir)
    stage = collect(run_dir)["stages"]["sample"]
    made = stage["rows"]
    assert {key: made[key] for key in ("rows", "read", "kind", "counts", "tokens", "problem")} == {
        "rows": 10, "read": 12, "kind": "preference", "counts": COUNTS, "tokens": 480, "problem": None,
    }  # fmt: skip
    assert stage["checkpoint"] is None and stage["parents"] == {"model_name_or_path": "sft"}
    examples = made["examples"]
    assert [row["prompt"] for row in examples] == [f"question {number} <b>" for number in (0, 2, 4, 6, 8)]
    assert len(examples[0]["chosen"]) == 2000 and examples[1]["rejected"] == "bad"
    assert (examples[1]["preference"], examples[1]["principle"]) == (0.6, "be kind")
    assert all(stage["rows"] is None for name, stage in collect(run_dir)["stages"].items() if name != "sample")


def test_scores_are_in_histograms_and_those_of_both_sides_on_one_axis(alone):
    write_data_stage(alone)
    scores = collect(alone)["stages"]["sample"]["rows"]["scores"]
    assert list(scores) == ["score_chosen", "score_rejected", "score_margin", "preference"]
    chosen, rejected, margin, preference = scores.values()
    assert chosen["edges"] == rejected["edges"] and (chosen["edges"][0], chosen["edges"][-1]) == (-2.25, 2.25)
    assert (sum(chosen["counts"]), sum(rejected["counts"])) == (10, 9)
    assert (rejected["n"], rejected["missing"], margin["missing"]) == (9, 1, 1)
    assert chosen["mean"] == pytest.approx(1.125) and rejected["mean"] == pytest.approx(-42 / 36)
    assert (preference["edges"][0], preference["edges"][-1]) == (0, 1)  # probabilities
    figures = histogram_figures("samples", scores)
    titles = ["scores of pairs", "margins of pairs", "preferences"]
    assert [figure["title"] for figure in figures] == [f"samples: {title}" for title in titles]
    assert figures[0]["rows"][0] == ["series", "low", "high", "rows"]
    assert sum(row[3] for row in figures[0]["rows"][1:] if row[0] == "rejected") == 9
    assert "rejected: mean \N{MINUS SIGN}1.167 of 9, 1 without" in figures[0]["caption"]


def test_the_steps_of_a_critic_and_the_answers_of_judges_are_shown(alone):
    steps = [{"principle": "kind", "critique": "It is rude, and it does not answer the question.", "revision": "Yes."}]
    judged = [{"principle": "kind", "judge": "me", "preference": 0.8125, "a_first": None, "b_first": 0.7}]
    row = pair(1) | {"messages": [{"role": "user", "content": "q"}, *said("good")], "steps": steps, "judged": judged}
    two = {"prompt": row["prompt"], "reply_a": said("one"), "reply_b": said("two")}
    write_data_stage(alone, "critique", [row])
    write_data_stage(alone, "sample-two", [two])
    (alone / "critique/data/left_out.jsonl").write_text("{}\n{}\n")
    report = collect(alone)
    (found,) = report["stages"]["critique"]["rows"]["examples"]
    assert found["steps"].splitlines()[1] == "critique: It is rude, and it does not answer the question."
    assert found["judged"] == "principle: kind, judge: me, preference: 0.812, b_first: 0.7"
    assert "completion" not in found and "messages" not in found  # the chosen reply is shown once
    critique, samples = page(report)["made"]
    assert critique["columns"] == ["chosen", "rejected", "steps", "judged"]
    assert (samples["columns"], samples["rows"][0]["texts"]["reply_b"]) == (["reply_a", "reply_b"], "two")
    assert report["stages"]["critique"]["rows"]["left_out"] == 2 and samples["left_out"] is None
    assert "critique/data/left_out.jsonl" in render(report)


@pytest.mark.parametrize("values", [[None, None], [1.0, 1.0], [1, 0], [2.5]])
def test_scores_that_are_missing_equal_or_single_do_no_harm(alone, values):
    write_data_stage(alone, rows=[{"completion": said("a"), "score": value} for value in values])
    report = collect(alone)
    found = report["stages"]["sample"]["rows"]["scores"]["score"]
    assert sum(found["counts"]) == found["n"] == len(values) - values.count(None)
    assert len(page(report)["made"]) == 1


def test_columns_that_hold_no_numbers_have_no_histogram(alone):
    write_data_stage(alone, rows=[{"completion": said("a"), "score": "high", "preference": [1.0]}])
    assert collect(alone)["stages"]["sample"]["rows"]["scores"] == {}


def test_the_page_shows_rows_in_place_of_parameters(run_dir):
    write_data_stage(run_dir)
    write_reader(run_dir, "dpo-2", "sample")
    report = collect(run_dir)
    shown = {row["name"]: row for row in outcomes(report)}
    assert shown["samples"]["data"] == "not trained; read 12 prompts of questions.jsonl"
    assert shown["samples"]["note"] == "made 10 preference pairs of 12 rows"
    assert shown["samples"]["cost"] == "480 tokens, 8.0 s"
    assert shown["DPO 2"]["data"] == "10 preference pairs of the stage samples"
    diagram = page(report)["diagram"]
    assert ">10 preference pairs</text>" in diagram["svg"] and ">0 parameters<" not in diagram["svg"]
    assert next(row for row in diagram["rows"] if row[0] == "sample")[:2] == ["sample", "sft"]
    assert "sample" in next(row for row in diagram["rows"] if row[0] == "dpo-2")[1].split()
    html = render(report)
    for text in (*COUNTS, "question 2 &lt;b&gt;", "more characters", "principle be kind", "preference 0.60"):
        assert text in html
    assert str(run_dir / "sample") not in html.split('class="outcomes"')[1].split("</table>")[0]
    link = html.split('download="samples-scores-of-pairs.csv"')[0].rpartition('href="data:text/csv;charset=utf-8,')[2]
    rows = list(csv.DictReader(unquote(link.partition('"')[0]).splitlines()))
    assert sum(int(row["rows"]) for row in rows) == 19
    assert "samples, DPO 2" in summary(report)


def test_rows_that_no_stage_reads_are_offered_for_training(run_dir):
    write_data_stage(run_dir)
    place = run_dir / "sample/data"
    train = [step["command"] for step in next_steps(collect(run_dir)) if step["what"] == "Train on"]
    assert train == [f"align dpo --model {run_dir}/sft/checkpoint --data {place}"]
    write_reader(run_dir, "dpo-2", "sample")
    steps = next_steps(collect(run_dir))
    assert "Train on" not in {step["what"] for step in steps}
    assert steps[0]["command"] == f"align chat {run_dir}/dpo-2/checkpoint"


def test_a_run_of_a_data_stage_alone_has_a_page_and_a_next_step(alone):
    write_data_stage(alone, rows=[{"messages": [{"role": "user", "content": "q"}, *said("a")], "score": 1}])
    report = collect(alone)
    assert report["stages"]["sample"]["rows"]["examples"] == [{"prompt": "q", "completion": "a", "score": 1}]
    assert "The stages took" in render(report)
    assert [step["what"] for step in next_steps(report)] == ["Train on"]


DAMAGES = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no rows in sample/data"),
    "no file": (lambda folder: [path.unlink() for path in folder.iterdir()], "no rows in sample/data"),
    "cut": (lambda folder: (folder / "train-00001.parquet").write_bytes(b"PAR1"), "cannot be read"),
    "empty": (lambda folder: (folder / "train-00000.parquet").write_bytes(b""), "cannot be read"),
    "account": (lambda folder: (folder / "account.json").write_text("{"), "account.json is damaged"),
    "account of another shape": (lambda folder: (folder / "account.json").write_text('{"counts": 3}'), None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_do_not_stop_the_report(alone, damage):
    write_data_stage(alone)
    change, problem = DAMAGES[damage]
    change(alone / "sample/data")
    report = collect(alone)
    made = report["stages"]["sample"]["rows"]
    assert (made["rows"], made["counts"]) == (10, COUNTS)  # as stage.json has them
    assert (problem in made["problem"]) if problem else made["problem"] is None
    assert page(report)["made"][0]["problem"] == made["problem"]


@pytest.mark.parametrize("status", ["running", "failed"])
def test_an_unfinished_data_stage_has_no_rows_yet(alone, status):
    add(alone, "sample", {"status": status, "parents": {"model_name_or_path": "sft"}})
    report = collect(alone)
    assert report["stages"]["sample"]["rows"] is None
    assert next(row for row in outcomes(report) if row["name"] == "samples")["status"] == status
    assert page(report)["made"] == []


@pytest.mark.parametrize(
    ("stage", "label", "tone"),
    [
        ("dpo", "DPO", 1), ("dpo-2", "DPO 2", 1), ("sft-cai", "SFT cai", 0), ("sft-on-policy", "SFT on policy", 0),
        ("sample-best", "samples best", 5), ("mine", "mine", 5), ("dpo2", "dpo2", 5), ("base", "base", 5),
    ],
)  # fmt: skip
def test_stages_of_a_method_have_its_label_and_colour(stage, label, tone):
    assert (stage_name(stage), stage_tone(stage)) == (label, tone)
    assert stage_name(stage, stage) == "base"


def test_the_recorded_method_decides_the_colour():
    assert stage_tone("mine", "ppo") == stage_tone("ppo")
    assert stage_tone("sft", "byte-level BPE") == stage_tone("sft")  # of older runs


def watched(run_dir) -> str:
    console = Console(file=io.StringIO(), width=160)
    state = read_state(run_dir)
    console.print(screen(state))
    return "\n".join([console.file.getvalue(), *closing_lines(state)])


def test_watch_shows_the_rows_of_a_data_stage_and_the_parts_of_an_unfinished_one(alone):
    write_data_stage(alone, seconds=8.0)
    add(alone, "sample-2", {"status": "running", "recipe": {"rows_per_part": 4}, "recipe_file": "r/again.yaml"})
    (alone / "sample-2/parts").mkdir(parents=True)
    assert "0 parts of its rows made" in watched(alone)
    (alone / "sample-2/parts/000000.jsonl").touch()
    shown = watched(alone)
    assert "10 preference pairs" in shown and "1 part of its rows made" in shown
    assert "died while samples 2 was running" in shown
    assert f"align sample r/again.yaml --output_dir {alone}/sample-2" in shown


def info(capsys, *arguments: str) -> str:
    parser = argparse.ArgumentParser()
    info_verb.add_arguments(parser)
    assert info_verb.main(parser.parse_args(arguments)) == 0
    return capsys.readouterr().out


def test_info_describes_rows_and_verifies_them(alone, capsys):
    write_data_stage(alone)
    folder = alone / "sample/data"
    lineage = {"stage": "sample", "method": "sample", "digest": "ab" * 32, "seed": 3, "parents": {}}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    write_manifest(folder)
    described = info(capsys, str(folder))
    assert "       10  rows (preference)\n         12  rows read\n         24  replies\n" in described
    assert "sample (sample, seed 3), rows abababababab" in described
    assert "sample (sample, seed 3)" in info(capsys, str(alone))
    assert f"{folder}: intact, 4 files" in info(capsys, str(alone), "--verify")
    with (folder / "train-00000.parquet").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="sample/data is damaged"):
        info(capsys, str(alone), "--verify")


def test_runs_with_data_stages_are_compared(alone, tmp_path):
    write_data_stage(alone, recipe={"num_generations": 4})
    write_data_stage(alone, "sample-2", recipe={"num_generations": 4})
    shutil.copytree(alone, tmp_path / "other")
    add(tmp_path / "other", "sample-2", {"status": "done", "recipe": {"num_generations": 8}})
    comparison = compare_runs([alone, tmp_path / "other"])
    assert comparison["not_compared"] == []  # there is nothing to evaluate
    assert [(entry["key"], entry["stages"]) for entry in comparison["differences"]] == [
        ("num_generations", ["sample-2"])
    ]
    assert "num_generations" in runs_text(comparison)
    assert "samples 2" in render_runs(comparison, [alone, tmp_path / "other"])
    assert collect(alone)["side_runs"] == []  # sample-2 is no variant of sample to be compared
