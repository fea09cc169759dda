import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from alignment.errors import UserError
from alignment.report import write_report
from alignment.report.charts.figures import training_figures
from alignment.report.content import CURVE_POINTS, collect, thinned
from alignment.report.render import render
from alignment.report.terminal import summary

EVALUATED = ["pretrain", "sft", "dpo", "ppo"]
SCRIPT = "<script>alert('x')</script>\nand a second line"
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that elements close in order; keeps what a browser would load, and the text of cells but for pictures.

    A link that saves data in the page itself loads nothing: `saved` has file name -> data URI.
    """

    def __init__(self, html: str):
        super().__init__()
        self.open, self.loaded, self.tags, self.cells, self.cell, self.saved = [], [], set(), [], None, {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        found = dict(attrs)
        if tag == "a" and "download" in found and found["href"].startswith("data:"):
            self.saved[found["download"]] = found.pop("href")
            attrs = list(found.items())
        self.loaded += [
            value for name, value in attrs if name in ("src", "href", "srcset", "data") and value[:1] != "#"
        ]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cell = ""

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())
        if tag in ("td", "th"):
            self.cells.append(" ".join(self.cell.split()))
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None and "svg" not in self.open:
            self.cell += data


@pytest.fixture(scope="module")
def report(tmp_path_factory, make_run):
    return collect(make_run(tmp_path_factory.mktemp("runs") / "tiny"))


@pytest.fixture(scope="module")
def html(report):
    return render(report)


def section(html: str, title: str) -> str:
    return html.split(f"<h2>{title}</h2>")[1].split("</section>")[0]


def test_report_has_the_public_shape(report):
    assert {"name", "stages", "evals", "comparisons", "samples"} <= report.keys()
    assert list(report["stages"]) == ["tokenizer", "pretrain", "sft", "reward", "dpo", "ppo"]
    stage_keys = {
        "checkpoint",
        "parent",
        "method",
        "seconds",
        "peak_memory_gb",
        "trainable_parameters",
        "tokens",
        "metrics",
    }
    assert all(stage_keys <= stage.keys() for stage in report["stages"].values())
    eval_keys = {"stage", "suite", "task", "format", "metric", "value", "se", "n"}
    assert all(eval_keys <= row.keys() for row in report["evals"])
    comparison_keys = {"a", "b", "task", "format", "metric", "delta", "ci_low", "ci_high", "p", "verdict"}
    assert all(comparison_keys <= row.keys() for row in report["comparisons"])
    assert all({"prompt", "outputs"} <= sample.keys() for sample in report["samples"])


def test_paths_and_parents_are_relative_to_the_run(report):
    assert report["stages"]["ppo"]["checkpoint"] == "ppo/checkpoint"
    assert report["stages"]["ppo"]["parent"] == "sft"
    assert report["stages"]["ppo"]["parents"] == {"model_name_or_path": "sft", "reward_model_path": "reward"}


def test_every_stage_is_compared_with_its_parent_and_with_base(report):
    found = {(row["a"], row["b"]) for row in report["comparisons"]}
    assert found == {("pretrain", "sft"), ("sft", "dpo"), ("pretrain", "dpo"), ("sft", "ppo"), ("pretrain", "ppo")}
    scores = {
        row["stage"]: row["value"] for row in report["evals"] if (row["task"], row["format"]) == ("tinyworld", "chat")
    }
    for row in report["comparisons"]:
        if (row["task"], row["format"]) == ("tinyworld", "chat"):
            assert row["delta"] == pytest.approx(scores[row["b"]] - scores[row["a"]])


def test_regressions_from_the_parent_are_shown_with_both_answers(report, html):
    rows = report["regressions"]
    assert {(row["a"], row["b"]) for row in rows} == {("sft", "dpo"), ("sft", "ppo")}  # SFT gains on every item
    assert all(row["score_b"] < row["score_a"] and row["output_b"] for row in rows)
    counts = Counter((row["b"], row["suite"], row["format"], row["metric"]) for row in rows)
    assert max(counts.values()) <= 3
    assert (
        "pretrain → SFT" in html and "exact_match" not in html.split("<h2>Regressions</h2>")[1].split("</section>")[0]
    )


def test_samples_hold_every_stage_and_changed_answers_first(report):
    assert all(list(sample["outputs"]) == EVALUATED for sample in report["samples"])
    per_task = {}
    for sample in report["samples"]:
        per_task.setdefault(sample["task"], []).append(sample["change"])
        parents = [("pretrain", "sft"), ("sft", "dpo"), ("sft", "ppo")]
        regressed = any(sample["correct"][a] and not sample["correct"][b] for a, b in parents)
        assert (sample["change"] == "regressed") == regressed
    rank = {"regressed": 0, "fixed": 1, None: 2}
    assert all(changes == sorted(changes, key=rank.get) for changes in per_task.values())
    assert any("regressed" in changes for changes in per_task.values())


def test_curves_are_thinned_and_finite(report):
    loss = report["curves"]["pretrain"]["loss"]
    assert len(loss) <= CURVE_POINTS
    assert (loss[0][0], loss[-1][0]) == (0, 899)
    assert "note" not in report["curves"]["pretrain"]
    json.dumps(report, allow_nan=False)


def test_thinning_keeps_short_curves_and_both_ends():
    assert thinned([1, 2, 3], 3) == [1, 2, 3]
    assert thinned(list(range(1000)), 11) == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]


def test_ppo_has_its_curves(report, html):
    titles = [figure["title"] for figure in training_figures(report["curves"])]
    assert [title.removeprefix("PPO: ") for title in titles if title.startswith("PPO")] == [
        "reward",
        "KL to the reference",
        "entropy",
        "answer length",
        "explained variance",
        "clip ratio",
    ]
    assert not [title for title in titles if title not in html]


def test_another_logged_reward_has_a_panel_unless_a_frontier_shows_it():
    reward, gold = [[1, 0.5], [2, 0.6], [3, 0.7]], [[1, 0.1], [2, 0.3], [3, 0.2]]
    logged = {"reward": reward, "rewards/model/mean": reward, "rewards/gold/mean": gold}
    _, beside = training_figures({"grpo": logged})
    assert beside["title"] == "GRPO: reward against gold" and re.findall(">(gold|model)<", beside["svg"]) == ["gold"]
    with_kl = training_figures({"ppo": logged | {"kl/completion": [[1, 0.0]]}})
    assert [figure["title"] for figure in with_kl] == ["PPO: reward", "PPO: KL to the reference"]


@pytest.mark.parametrize("rewards", [{}, {"rewards/model/mean": [[1, 0.5]]}, {"rewards/half/mean": [[1, 1.0]]}])
def test_a_single_reward_has_no_panels(rewards):
    figures = training_figures({"grpo": {"reward": [[1, 0.5]], **rewards}})
    assert [figure["title"] for figure in figures] == ["GRPO: reward"]


def test_scores_have_bars_of_their_intervals_on_the_axis_of_their_column(report, html):
    scores = section(html, "Scores").split("</table>")[0]
    pictures = re.findall(r'<svg class="chart".*?</svg>', scores)
    rows = [row for row in report["evals"] if row["headline"]]
    assert len(pictures) == len(rows) == 16
    found = {}
    for row in rows:
        shown = f"{100 * row['value']:.1f} ± {100 * row['se']:.1f}"
        if (row["metric"], row["format"]) == ("exact_match", "chat"):
            picture = scores.split(shown)[1]
            low, high = map(float, re.search(r'class="range t0" x1="([\d.]+)" x2="([\d.]+)"', picture).groups())
            chance = float(re.search(r'class="grid zero" x1="([\d.]+)"', picture)[1])
            found[row["stage"]] = (high - low) / row["se"], ((low + high) / 2 - chance) / (row["value"] - row["chance"])
    widths, distances = zip(*found.values(), strict=True)
    assert widths == pytest.approx([widths[0]] * 4, rel=0.02) and distances == pytest.approx(
        [distances[1]] * 4, rel=0.1
    )
    assert widths[0] == pytest.approx(2 * 1.96 * distances[1], rel=0.03)


def test_table_numbers_equal_the_json(report, html):
    cells = Page(html).cells
    for row in report["evals"]:
        scale, digits = {"exact_match": (100, 1), "gold_reward": (1, 3), "bits_per_byte": (1, 4)}[row["metric"]]
        value, se = (f"{row[key] * scale:.{digits}f}".replace("-", "\N{MINUS SIGN}") for key in ("value", "se"))
        assert f"{value} ± {se}n = {row['n']}" in cells, row
    for row in report["comparisons"]:
        if row["metric"] == "exact_match":
            low, high = (f"{100 * row[key]:z.1f}".replace("-", "\N{MINUS SIGN}") for key in ("ci_low", "ci_high"))
            delta = f"{100 * row['delta']:+z.1f}".replace("-", "\N{MINUS SIGN}")
            assert f"{delta} points [{low}, {high}]" in cells, row


def test_the_header_names_each_verdict(report, html):
    row = next(
        row for row in report["comparisons"]
        if (row["a"], row["b"], row["task"], row["format"]) == ("pretrain", "sft", "tinyworld", "chat")
    )  # fmt: skip
    assert row["verdict"] == "better"
    text = re.sub(r"<[^>]+>|\s+", " ", html)
    assert re.search(rf"SFT against base: +chat accuracy \+{100 * row['delta']:.1f} points \[[^]]+\] +better", text)


def test_page_is_well_formed_and_loads_nothing(html):
    page = Page(html)
    assert page.open == []
    assert page.loaded == []
    assert not re.search(r"https?://|url\((?!#tip\))|@import", html)
    assert {"svg", "table", "details", "figcaption"} <= page.tags


def test_model_output_is_escaped(report, html):
    assert any(SCRIPT in sample["outputs"].values() for sample in report["samples"])
    assert "script" not in Page(html).tags
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("stages", "evaluated"),
    [
        (("tokenizer",), ()),
        (("tokenizer", "pretrain"), ()),
        (("tokenizer", "pretrain", "sft"), ("sft",)),
        ((), ("sft",)),
    ],
)
def test_partial_runs_render(make_run, tmp_path, stages, evaluated):
    report = collect(make_run(tmp_path / "tiny", stages, evaluated))
    page = Page(render(report))
    assert page.open == []
    assert report["comparisons"] == []
    assert summary(report)


def test_failed_stage_without_files_renders(make_run, tmp_path):
    run_dir = make_run(tmp_path / "tiny", ("tokenizer",), ())
    record = json.loads((run_dir / "pipeline.json").read_text())
    record["stages"]["pretrain"] = {"status": "failed", "parents": {"tokenizer": "tokenizer"}}
    (run_dir / "pipeline.json").write_text(json.dumps(record))
    report = collect(run_dir)
    assert report["stages"]["pretrain"]["status"] == "failed"
    assert "failed" in Page(render(report)).cells


def test_faults_that_training_recovered_from_are_named(make_run, tmp_path):
    run_dir = make_run(tmp_path / "tiny", ("tokenizer", "pretrain"), ())
    assert "Faults that training recovered from" not in render(collect(run_dir))
    for path, change in (
        (run_dir / "pretrain/stage.json", lambda all: all.update(faults={"skipped_steps": 3, "loss_spikes": 0})),
        (
            run_dir / "pipeline.json",
            lambda all: all["stages"]["pretrain"].update(micro_batch={"per_device_train_batch_size": 2}),
        ),
    ):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    assert "pretrain: 3 skipped steps, out of memory, then micro-batches of 2 (" in render(collect(run_dir))


def test_values_that_are_not_numbers_render(make_run, tmp_path):
    run_dir = make_run(tmp_path / "tiny", ("tokenizer", "pretrain"), ("pretrain",), items=1)
    path = run_dir / "evals" / "pretrain-tinyworld-chat" / "run.json"
    record = json.loads(path.read_text())
    record["tasks"][0] |= {"value": float("nan"), "se": None, "n": None}
    path.write_text(json.dumps(record))
    report = collect(run_dir)
    assert report["evals"][0]["value"] is None
    assert Page(render(report)).open == []


def test_runs_that_cannot_be_compared_are_named(make_run, tmp_path):
    run_dir = make_run(tmp_path / "tiny", ("tokenizer", "pretrain", "sft"), ("pretrain", "sft"))
    path = run_dir / "evals" / "sft-tinyworld-chat" / "run.json"
    path.write_text(path.read_text().replace("f00d" * 16, "0000" * 16))
    report = collect(run_dir)
    assert [(row["a"], row["b"], row["suite"], row["format"]) for row in report["not_compared"]] == [
        ("pretrain", "sft", "tinyworld", "chat")
    ]
    assert "sft was not compared with pretrain on tinyworld (chat)" in render(report)


def test_an_evaluation_of_another_version_does_not_stop_the_report(make_run, tmp_path):
    """Whichever key its run.json lacks: the evaluation is in the report, or named with file and reason."""
    run_dir = make_run(tmp_path / "tiny", ("tokenizer", "pretrain"), ("pretrain",), items=1)
    path = run_dir / "evals" / "pretrain-tinyworld-chat" / "run.json"
    record = json.loads(path.read_text())
    for key in record:
        path.write_text(json.dumps({name: value for name, value in record.items() if name != key}))
        report = collect(run_dir)
        assert len(report["eval_runs"]) + len(report["unreadable"]) == 4
    path.write_text(json.dumps({"suite": "tinyworld"}))
    report = collect(run_dir)
    assert [entry["file"] for entry in report["unreadable"]] == [str(path)] and len(report["eval_runs"]) == 3
    assert "Unreadable evaluations" in render(report)
    assert f"unreadable: {path} is not that of an eval run, got keys suite, expected" in summary(report)


def test_half_written_metrics_line_is_left_out(make_run, tmp_path):
    run_dir = make_run(tmp_path / "tiny", ("tokenizer", "pretrain"), ())
    with (run_dir / "pretrain" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 900, "lo')
    assert collect(run_dir)["curves"]["pretrain"]["loss"][-1][0] == 899


def test_write_report_replaces_both_files(make_run, tmp_path):
    run_dir = make_run(tmp_path / "tiny", ("tokenizer",), ())
    (run_dir / "report.html").write_text("old")
    page = write_report(run_dir)
    assert page == run_dir / "report.html"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert json.loads((run_dir / "report.json").read_text())["name"] == "tiny"
    assert not list(run_dir.glob("*.new"))


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "missing")
    assert not list(tmp_path.iterdir())


def test_damaged_json_is_named(make_run, tmp_path):
    run_dir = make_run(tmp_path / "tiny", ("tokenizer",), ())
    (run_dir / "tokenizer" / "stage.json").write_text("{")
    with pytest.raises(UserError, match=r"stage\.json is damaged"):
        collect(run_dir)


def test_command_prints_the_table_and_both_paths(make_run, tmp_path, capsys):
    import argparse

    from alignment.cli.inspect import report as command

    run_dir = make_run(tmp_path / "tiny")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.main(parser.parse_args([str(run_dir)])) == 0
    printed = capsys.readouterr().out
    assert "SFT against base" in printed
    assert printed.endswith(f"{run_dir / 'report.json'}\n{run_dir / 'report.html'}\n")
