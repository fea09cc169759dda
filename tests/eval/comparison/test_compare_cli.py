"""`align compare`: its output, files and errors."""

import argparse
import json
import re

import numpy as np
import pytest
from stored_runs import make_run

from alignment.cli.evaluate import compare
from alignment.errors import UserError
from eval.harness.store import load_run, save_run


def call(*arguments) -> int:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    return compare.main(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def run_dir(tmp_path):
    """Runs of sft, of a worse dpo and of an equal ppo."""
    scores = {"easy": np.ones(60), "hard": np.tile([0.0, 1.0], 30)}
    worse = {"easy": np.repeat([0.0, 1.0], [20, 40]), "hard": scores["hard"]}
    for stage, values in (("sft", scores), ("dpo", worse), ("ppo", scores)):
        make_run(tmp_path / "demo/evals" / f"{stage}-toy-plain", stage, values)
    return tmp_path / "demo"


def test_two_against_the_first(run_dir, capsys):
    assert call(run_dir / "sft", run_dir / "dpo", run_dir / "ppo") == 0
    out = capsys.readouterr().out
    first, second = out.split("sft -> ppo")
    assert first.startswith("sft -> dpo") and "worse" in first and "worse" not in second.split("p: adjusted")[0]
    assert "over the tasks of a metric in a pair" in out and "2 pairs, each tested separately" in out
    assert "(one training seed each)" in out


def test_an_unknown_verdict_has_a_reason_in_every_output(tmp_path, capsys):
    for stage, score in (("sft", 1.0), ("dpo", 0.0)):
        make_run(tmp_path / f"demo/evals/{stage}-toy-plain", stage, {f"t{i}": [score] for i in range(3)})
    sides = tmp_path / "demo/sft", tmp_path / "demo/dpo"
    files = {name: tmp_path / f"c.{name}" for name in ("md", "json", "html")}
    options = [text for name, file in files.items() for text in (f"--{name}", file)]
    assert call(*sides, *options, "--fail-on-regression", "toy:0.1") == 1  # nothing shows that the loss is noise
    out = capsys.readouterr().out
    assert "unknown: a task has fewer than two clusters of items" in out and "worse by 1.0000, verdict unknown" in out
    assert "nan" not in out.lower()
    assert "fewer than two clusters" in files["md"].read_text()
    page = files["html"].read_text()
    assert '<span class="verdict unknown">unknown</span>' in page and "fewer than two clusters" in page
    assert "one training run with one seed" in page and "nan" not in page.lower()
    assert {row["verdict"] for row in json.loads(files["json"].read_text())["comparisons"]} == {"unknown"}


def test_items_that_changed(run_dir, capsys):
    assert call(run_dir / "ppo", run_dir / "dpo", "--show", 2) == 0
    out = capsys.readouterr().out
    assert "regressed: easy easy-0 (toy plain, exact_match 1 -> 0)" in out and "easy-2" not in out
    assert re.search(r'prompt: +"easy 0\?"\n +expected: "!"\n +ppo: +"ppo says 1"\n +dpo: +"dpo says 0"', out)


def test_no_item_changed(run_dir, capsys):
    assert call(run_dir / "sft", run_dir / "ppo", "--show", 2) == 0
    assert "no item changed" in capsys.readouterr().out
    assert call(run_dir / "sft", run_dir / "ppo") == 0
    assert "no item changed" not in capsys.readouterr().out


def test_long_texts_are_cut_on_the_terminal_alone(run_dir, tmp_path, capsys):
    run, text = load_run(run_dir / "evals/dpo-toy-plain"), f"first {'and so on ' * 100}last"
    run.items.loc[0, "output"] = text
    save_run(run.path, run.record, run.items)
    assert call(run_dir / "sft", run_dir / "dpo", "--show", 1, "--md", tmp_path / "c.md") == 0
    out = capsys.readouterr().out
    assert re.search(r'dpo: +"first .{180,200}" \.\.\. \(610 characters\) \.\.\. ".{180,200} last"\n', out)
    assert "long texts are cut: --md FILE" in out and text in (tmp_path / "c.md").read_text()


def test_a_dash_and_an_unadjusted_interval_are_explained(run_dir, tmp_path, capsys):
    assert call(run_dir / "sft", run_dir / "ppo") == 0
    assert "\n-: cannot be computed: too few items" in capsys.readouterr().out
    both = [0.0, 1.0] * 30
    for stage, scores in (("a", both), ("b", [1.0, 1.0, *both[2:58], 0.0, 0.0])):
        make_run(tmp_path / f"c/evals/{stage}-toy-plain", stage, {"t": scores})
    assert call(tmp_path / "c/a", tmp_path / "c/b") == 0
    out = capsys.readouterr().out
    assert "\n-:" not in out and "95% interval: of this row alone, not adjusted" in out


def test_a_format_selects_the_runs_of_that_format(run_dir, capsys):
    for stage in ("sft", "dpo"):
        make_run(run_dir / f"evals/{stage}-toy-chat", stage, {"talk": [1.0, 0.0]}, format="chat")
    assert call(run_dir / "sft", run_dir / "dpo") == 0
    assert {"plain", "chat"} <= set(capsys.readouterr().out.split())
    assert call(run_dir / "sft", run_dir / "dpo", "--format", "plain") == 0
    assert "plain" in (out := capsys.readouterr().out) and "chat" not in out
    make_run(run_dir / "evals/ppo-toy-chat", "ppo", {"easy": [1.0]}, format="chat")
    assert call(run_dir / "sft", run_dir / "ppo", "--format", "plain") == 0
    assert "not compared" not in capsys.readouterr().out
    with pytest.raises(UserError, match="No eval runs found in chat format"):
        call(run_dir / "sft", run_dir / "dpo/../other", "--format", "chat")


def test_no_more_items_are_shown_than_asked_for(tmp_path, capsys):
    """Of two suites and both directions N in all; documents without a reply are none of them."""
    for stage, scores in (("a", [0.0, 1.0] * 20), ("b", [1.0, 0.0] * 20)):
        for suite in ("toy", "other"):
            make_run(tmp_path / f"c/evals/{stage}-{suite}-plain", stage, {"t": scores}, suite=suite)
        text = make_run(tmp_path / f"c/evals/{stage}-bits-plain", stage, {"d": scores}, suite="bits")
        run = load_run(text)
        save_run(text, run.record, run.items.assign(prompt="", output=""))
    assert call(tmp_path / "c/a", tmp_path / "c/b", "--show", 3) == 0
    out = capsys.readouterr().out
    titles = [line for line in out.splitlines() if line.startswith(("regressed:", "fixed:"))]
    assert [title.partition(":")[0] for title in titles] == ["regressed", "regressed", "fixed"]
    assert {"(toy plain" in title for title in titles[:2]} == {True, False} and "bits" not in "".join(titles)
    assert "3 of 120 changes are shown" in out
    assert call(tmp_path / "c/evals/a-bits-plain", tmp_path / "c/evals/b-bits-plain", "--show", 3) == 0
    assert "no item with a reply changed" in capsys.readouterr().out


def test_the_place_of_the_items_is_named(run_dir, capsys):
    assert call(run_dir / "sft", run_dir / "dpo") == 0
    assert f"reply and score: {run_dir / 'evals'}/*/items.parquet\n" in capsys.readouterr().out


def test_clusters_are_counted_and_few_have_no_interval(tmp_path, capsys):
    def lines(count, size):
        for stage, first in (("a", 1.0), ("b", 0.0)):
            clusters = [str(k // size) for k in range(count * size)]
            scores = [float(first if k % 3 else 1 - first) for k in range(count * size)]
            make_run(tmp_path / f"{count}/evals/{stage}-toy-plain", stage, {"t": scores}, clusters=clusters)
        assert call(tmp_path / f"{count}/a", tmp_path / f"{count}/b") == 0
        return capsys.readouterr().out

    few, more, own = lines(4, 5), lines(5, 5), lines(20, 1)
    assert (
        re.search(r"detectable +clusters +n\n", few)
        and re.search(r"tied +[\d.]+ +4 +20\n", few)
        and re.search(r"0\.3000 +- +0\.\d+ ", few)
    )
    assert "fewer than 5 clusters" in few
    assert re.search(r" 5 +25\n", more) and re.search(r"\[[-+][\d.]+, [-+][\d.]+\]", more) and "\n-:" not in more
    assert " clusters " not in own and "clusters:" not in own


def test_the_score_of_the_commonest_answer(tmp_path, capsys):
    for stage in ("a", "b"):
        folder = make_run(tmp_path / f"c/evals/{stage}-toy-plain", stage, {"mood": [0.0, 1.0] * 3, "sum": [1.0] * 4})
        run = load_run(folder)
        run.items["target"] = [*["sad"] * 4, *["happy"] * 2, *["1", "2", "3", "3"]]
        save_run(folder, run.record, run.items)
    assert call(tmp_path / "c/a", tmp_path / "c/b") == 0
    out = capsys.readouterr().out
    assert "\nalways giving the commonest answer would score, in toy: mood 0.6667 ('sad')\n" in out


def test_a_misspelt_path_is_named(run_dir, monkeypatch):
    monkeypatch.chdir(run_dir.parent)
    for stage in ("sft", "dpo"):
        (run_dir / stage / "checkpoint").mkdir(parents=True)
    with pytest.raises(UserError) as refused:
        call("demo/sft", "dmeo/dpo", "--format", "plain")
    assert "dmeo/dpo (no such folder)" in refused.value.got and refused.value.fix == "did you mean demo/dpo?"
    with pytest.raises(UserError) as refused:
        call("demo/stf/checkpoint", "dmeo/dpo/checkpoint", "--suite", "tinyworld")
    first, second = refused.value.errors
    assert (first.problem, first.fix) == ("No such folder: demo/stf/checkpoint.", "did you mean demo/sft/checkpoint?")
    assert (second.problem, second.fix) == ("No such folder: dmeo/dpo/checkpoint.", "did you mean demo/dpo/checkpoint?")


def test_exit_code_for_continuous_integration(run_dir, capsys):
    sft, dpo, ppo = (run_dir / stage for stage in ("sft", "dpo", "ppo"))
    assert call(sft, dpo, "--fail-on-regression", "easy:0.3") == 1
    assert "FAILED  easy:0.3: easy/exact_match (toy plain), sft -> dpo: worse by 0.3333" in capsys.readouterr().out
    assert call(sft, dpo, "--fail-on-regression", "easy:0.4") == 0
    assert call(sft, dpo, "--fail-on-regression", "easy:0.4", "--strict") == 1
    assert call(sft, dpo, "--fail-on-regression", "hard:0", "--fail-on-regression", "*:0.01") == 1
    assert call(sft, ppo, "--fail-on-regression", "*:0", "--strict") == 0
    assert call(sft, ppo, dpo, "--fail-on-regression", "easy:0.01") == 1
    with pytest.raises(UserError, match="not compared"):
        call(sft, ppo, "--fail-on-regression", "esay:0.01")


def test_files(run_dir, tmp_path, capsys):
    files = {name: tmp_path / f"out/comparison.{name}" for name in ("md", "json", "html")}
    options = [text for name, file in files.items() for text in (f"--{name}", file)]
    assert call(run_dir / "sft", run_dir / "dpo", "--show", 3, "--fail-on-regression", "easy:0.3", *options) == 1
    content = json.loads(files["json"].read_text())
    assert set(content) == {"comparisons", "skipped", "gates", "flips"}
    assert content["comparisons"][0]["verdict"] == "worse" and content["gates"][0]["failed"]
    assert [flip["item_id"] for flip in content["flips"]] == ["easy-0", "easy-1", "easy-2"]
    markdown = files["md"].read_text()
    assert "| toy | plain | easy | exact\\_match | 1.0000 | 0.6667 | -0.3333 |" in re.sub(" +", " ", markdown)
    assert "- FAILED" in markdown and "```text\ndpo says 0\n```" in markdown
    page = files["html"].read_text()
    assert "\N{MINUS SIGN}33.3 points" in page and "dpo says 0" in page and "FAILED" in page
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\(""", page)


def test_model_output_is_escaped(run_dir, tmp_path):
    """Model output is not interpreted as markup in the page, in Markdown or on the terminal."""
    run = load_run(run_dir / "evals/dpo-toy-plain")
    run.items.loc[0, "output"] = "<script>alert(1)</script>\n```\n# not a heading \x1b[31m"
    save_run(run.path, run.record, run.items)
    page, markdown = tmp_path / "c.html", tmp_path / "c.md"
    assert call(run_dir / "sft", run_dir / "dpo", "--show", 1, "--html", page, "--md", markdown) == 0
    assert "<script>" not in page.read_text()
    assert "````text\n<script>alert(1)</script>\n```\n# not a heading" in markdown.read_text()


def test_no_control_characters_on_the_terminal(run_dir, capsys):
    run = load_run(run_dir / "evals/dpo-toy-plain")
    run.items.loc[0, "output"] = "red \x1b[31m"
    save_run(run.path, run.record, run.items)
    assert call(run_dir / "sft", run_dir / "dpo", "--show", 1) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_runs_that_are_not_compared_are_named(run_dir, capsys):
    make_run(run_dir / "evals/sft-toy-chat", "sft", {"easy": [1.0]}, format="chat")
    assert call(run_dir / "sft", run_dir / "dpo") == 0
    assert (
        f"not compared: toy chat: only {run_dir / 'sft'} has it, {run_dir / 'dpo'} does not" in capsys.readouterr().out
    )


def test_no_figure_to_compare(tmp_path):
    record = {"tasks": [{"task": "t", "metric": "f1", "is_mean": False, "members": None}]}
    sides = [make_run(tmp_path / stage, stage, {"t": [1.0]}, **record) for stage in ("sft", "dpo")]
    with pytest.raises(UserError, match="Nothing to compare"):
        call(*sides)


def test_different_templates_need_an_option(tmp_path):
    for stage in ("sft", "dpo"):
        make_run(tmp_path / f"evals/{stage}", stage, {"t": [1.0, 0.0]}, format="chat", template_digest=stage)
    with pytest.raises(UserError, match="any_template"):
        call(tmp_path / "sft", tmp_path / "dpo")
    assert call(tmp_path / "sft", tmp_path / "dpo", "--any_template") == 0
