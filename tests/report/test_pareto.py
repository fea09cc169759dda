"""The Pareto plot: which stages none dominates, in which format, and its chart and table on the page."""

import itertools
import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from alignment.report.charts.pareto_figures import pareto_points, pareto_section
from alignment.report.charts.plots import Estimate, pareto_chart
from alignment.report.content import collect
from alignment.report.render import render

SUITES = ["helpful", "harmless"]


def rows(stage: str, *values: float, form: str = "chat", higher: tuple[bool, bool] = (True, True)) -> list[dict]:
    """The headline rows of a stage on both suites, or on the first alone."""
    shared = {"stage": stage, "format": form, "metric": "acc", "n": 100, "headline": True, "variant": {}}
    return [
        shared | {"suite": suite, "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "higher_is_better": up}
        for suite, value, up in zip(SUITES, values, higher, strict=False)
    ]


def dominated(found: dict) -> dict[str, list[str]]:
    return {point["stage"]: point["dominated_by"] for point in found["points"]}


def test_a_stage_is_dominated_by_one_that_is_as_good_on_both_and_better_on_one():
    some = [*rows("sft", 0.6, 0.3), *rows("cai", 0.6, 0.5), *rows("dpo", 0.5, 0.7), *rows("ppo", 0.4, 0.6)]
    found = pareto_points(some, SUITES, ["base", "sft", "cai", "dpo", "ppo"])
    assert dominated(found) == {"sft": ["cai"], "cai": [], "dpo": [], "ppo": ["dpo"]}
    equal = pareto_points([*rows("a", 0.5, 0.5), *rows("b", 0.5, 0.5)], SUITES, ["a", "b"])
    assert dominated(equal) == {"a": [], "b": []}
    lower = [*rows("a", 0.5, 0.2, higher=(True, False)), *rows("b", 0.5, 0.4, higher=(True, False))]
    assert dominated(pareto_points(lower, SUITES, ["a", "b"])) == {"a": [], "b": ["a"]}


def test_stages_with_both_suites_in_one_format_are_plotted():
    some = [*rows("a", 0.1, 0.1, form="plain"), *rows("a", 0.5), *rows("b", 0.2, 0.2), *rows("c", 0.3)]
    found = pareto_points(some, SUITES, ["a", "b", "c"])
    assert [point["stage"] for point in found["points"]] == ["b"]
    plain = pareto_points([*rows("a", 0.1, 0.1, form="plain"), *rows("c", 0.3)], SUITES, ["a", "b", "c"])
    assert [score["format"] for score in plain["points"][0]["scores"]] == ["plain", "plain"]
    few_shot = [row | {"variant": {"num_fewshot": 3}} for row in rows("a", 0.1, 0.1)]
    assert pareto_points([*few_shot, *rows("c", 0.3)], SUITES, ["a", "c"]) is None


@pytest.fixture(scope="module")
def report(tmp_path_factory, small_run):
    run_dir = tmp_path_factory.mktemp("pareto") / "tiny"
    shutil.copytree(small_run, run_dir, ignore=shutil.ignore_patterns("metrics.jsonl"))
    record = json.loads((run_dir / "pipeline.json").read_text())
    record["report"] = {"pareto": ["tinyworld_gold", "tinyworld"]}
    (run_dir / "pipeline.json").write_text(json.dumps(record))
    return collect(run_dir)


def test_the_plot_and_its_table_are_on_the_page(report):
    section = pareto_section(report)
    assert [row["name"] for row in section["rows"]] == ["base", "SFT", "DPO", "PPO"]
    best = [point for point in report["pareto"]["points"] if not point["dominated_by"]]
    root = ElementTree.fromstring(section["figure"]["svg"])
    kinds = [one.attrib.get("class", "") for one in root.iter()]
    assert kinds.count("ring") == len(best) == sum(row["dominated_by"] == "none" for row in section["rows"])
    assert sum(kind.startswith("dot") for kind in kinds) == 4 and kinds.count("route") == 1
    assert root.find("title").text.startswith("tinyworld against tinyworld_gold. ")
    value = report["pareto"]["points"][1]["scores"][1]["value"]
    assert section["rows"][1]["scores"][1].startswith(f"{100 * value:.1f} [")
    html = render(report).split("<h2>Pareto plot</h2>")[1].split("</section>")[0]
    assert "tinyworld: accuracy (%)" in html and "tinyworld-against-tinyworld-gold.csv" in html


def test_without_stages_on_both_suites_there_is_no_plot(report):
    assert "Pareto plot" not in render(
        report | {"pareto": pareto_points(report["evals"], ["tinyworld", "other"], ["sft"])}
    )


def test_names_of_equal_points_do_not_cover_each_other():
    labels = ("SFT", "DPO & <b>", "PPO", "GRPO", "KTO", "DPO second")
    pairs = [(Estimate(name, 0.5), Estimate(name, 0.5)) for name in labels]
    root = ElementTree.fromstring(pareto_chart(pairs, [True] * 6, title="t", x_label="x", y_label="y"))
    names = [one.attrib for one in root.iter("text") if one.attrib.get("class") == "name over"]
    assert len(names) == 6
    for one, other in itertools.combinations(names, 2):
        beside = one["text-anchor"] != other["text-anchor"]
        assert beside or abs(float(one["y"]) - float(other["y"])) >= 13
