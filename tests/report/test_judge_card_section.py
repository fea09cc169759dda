"""The judge's card in report.json and on the page: of several judge stages, with few pairs, without gold."""

import json
import math
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from alignment.report.charts.judge_figures import judge_section
from alignment.report.content import collect
from alignment.report.first_screen.next_steps import next_steps
from alignment.report.first_screen.outcomes import outcomes
from alignment.report.render import render
from reward_models.card.judge_card import JudgedPairs, judge_card
from reward_models.card.policy_gain import inherited


def pairs_of_judge(count: int, gold: bool = True) -> JudgedPairs:
    """Pairs of a judge that is often right, prefers what is shown first, and likes the word "please"."""
    rng = np.random.default_rng(0)
    gaps = rng.choice([-1.0, 1.0], count)
    please = rng.integers(0, 2, (2, count))
    merit = 1.0 * gaps + 1.5 * (please[0] - please[1])
    a_first, b_first = (1 / (1 + np.exp(-(1.2 + side * merit))) for side in (1, -1))
    others = rng.integers(0, 9, (2, count))
    both = zip(please, others, strict=True)
    texts = [
        np.array(["please " * one + "so " * more for one, more in zip(*some, strict=True)], object) for some in both
    ]
    names = np.array(["kind <b>", "honest"] * count, dtype=object)[:count]
    families = np.array(["maths"] * count, dtype=object)
    return JudgedPairs(a_first, b_first, *texts, gaps if gold else None, names, families, np.arange(count) // 2)


def read(section: dict) -> dict[str, str]:
    return {row["name"]: row["value"] for row in section["rows"]}


def add_judge(run_dir, name: str, card: dict, judges: list[str]) -> None:
    """A finished judge stage without its rows."""
    metrics = {"rows": 5, "read": 5, "kind": "preference", "counts": {}, "judges": judges, "judge_card": card}
    (run_dir / name).mkdir()
    (run_dir / name / "stage.json").write_text(json.dumps({"stage": name, "method": "judge", "metrics": metrics}))
    record = json.loads((run_dir / "pipeline.json").read_text())
    record["stages"][name] = {"status": "done"}
    (run_dir / "pipeline.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def report(tmp_path_factory, small_run):
    run_dir = tmp_path_factory.mktemp("judged") / "tiny"
    shutil.copytree(small_run, run_dir, ignore=shutil.ignore_patterns("evals", "metrics.jsonl"))
    add_judge(run_dir, "judge", judge_card(pairs_of_judge(400)), ["sft-judge"])
    few = judge_card(pairs_of_judge(1)) | {"position_effect": math.nan}
    add_judge(run_dir, "judge-second", few, ["one", "other"])
    return collect(run_dir)


def test_every_judge_stage_has_its_card_in_the_report(report):
    json.dumps(report, allow_nan=False)
    cards = report["judge_cards"]
    assert list(cards) == ["judge", "judge-second"] and cards["judge-second"]["judges"] == ["one", "other"]
    assert cards["judge"]["agreement"] == report["stages"]["judge"]["metrics"]["judge_card"]["agreement"]
    html = render(report)
    for part in ("<h3>AI judge</h3>", "<h3>AI judge second</h3>", "Agreement with gold by principle", "sft-judge"):
        assert part in html
    assert "kind &lt;b&gt;" in html and "nan" not in html.split("Judge's card")[1].split("Data made by the run")[0]


def test_the_first_screen_says_how_far_a_judge_agrees_with_gold(report):
    note = next(row["note"] for row in outcomes(report) if row["name"] == "AI judge")
    agreement = report["judge_cards"]["judge"]["agreement"]
    value, low, high = (f"{100 * agreement[key]:.1f}%" for key in ("value", "low", "high"))
    assert note.endswith(f"; agrees with gold on {value} [{low}, {high}] of 400 pairs")


def test_the_first_screen_says_what_a_policy_inherited_and_no_stage_is_to_be_trained_on_it(report):
    changed = json.loads(json.dumps(report))
    stage = changed["stages"]["judge-second"]
    stage["rows"] = {"rows": 4, "kind": "preference"}
    assert [one["why"] for one in next_steps(changed) if one["what"] == "Train on"] == ["the rows of AI judge second"]
    gain = {"policy": "ppo", "baseline": "sft"} | inherited([1, 1, 1, -1], [1, 1, -1, -1])
    stage["metrics"]["judge_card"]["inherited"] = gain
    note = next(row["note"] for row in outcomes(changed) if row["name"] == "AI judge second")
    assert note == "made 4 preference pairs; prefers ppo over sft on 75.0% of 4 pairs, gold on 50.0%"
    assert "the rows of AI judge second" not in [one["why"] for one in next_steps(changed)]


def test_each_figure_has_its_interval_and_how_to_read_it(report):
    card = report["judge_cards"]["judge"]
    section = judge_section("judge", card)
    shown = read(section)
    agreement, position = card["agreement"], card["position_bias"]
    percents = [f"{100 * agreement[key]:.1f}%" for key in ("value", "low", "high")]
    assert shown["agreement with gold"] == "{} [{}, {}]".format(*percents)
    assert shown["position bias"].startswith(f"+{100 * position['value']:.1f} points [+")
    assert "“please” +" in shown["words"] and shown["words"].startswith("1 found, 2 tested")
    assert section["words"][0]["name"] == "please"
    assert shown["calibration (ECE)"] == f"{card['calibration']['ece']:.3f}" and shown["controlled for gold"] == "yes"
    assert all(row["reading"].endswith(".") for row in section["rows"])
    [principles, families] = section["tables"]
    assert [row["n"] for row in principles["rows"]] == [200, 200] and families["rows"][0]["name"] == "maths"


def test_the_reliability_plot_shows_the_bins_and_stays_between_0_and_1(report):
    [figure] = judge_section("judge", report["judge_cards"]["judge"])["figures"]
    bins = report["judge_cards"]["judge"]["calibration"]["bins"]
    assert [row[1:3] for row in figure["rows"][1:]] == [[one["confidence"], one["accuracy"]] for one in bins]
    two = {"ece": 0.1, "brier": 0.2, "bins": [{"confidence": 0.7, "accuracy": 0.5, "n": 2, "low": 0.7, "high": 0.7}]}
    [figure] = judge_section("judge", {"n": 2, "calibration": two})["figures"]
    labels = [one.text for one in ElementTree.fromstring(figure["svg"]).iter("text") if one.text]
    assert "1.5" not in labels and not any(label.startswith("\N{MINUS SIGN}") for label in labels)


def test_what_few_pairs_do_not_show_is_unknown():
    no_gold = read(judge_section("judge", judge_card(pairs_of_judge(40, gold=False))))
    assert no_gold["agreement with gold"] == no_gold["Brier score"] == "unknown"
    assert no_gold["controlled for gold"] == "no"
    none = pairs_of_judge(40)
    none = judge_section("judge", judge_card(none.where(np.zeros(40, bool))))
    assert set(read(none).values()) == {"unknown", "none tested: no word is in one reply alone often enough", "no"}
    assert (none["figures"], none["tables"], none["words"]) == ([], [], [])
    single = read(judge_section("judge", judge_card(pairs_of_judge(1))))
    assert single["agreement with gold"] == "100.0% [\N{EN DASH}, \N{EN DASH}]" and "[" not in single["position bias"]
    assert set(read(judge_section("judge", {})).values()) == {"unknown", "no"}


def test_what_a_policy_inherited_is_shown_if_two_checkpoints_wrote_the_replies():
    def shown(*gaps) -> dict[str, tuple[str, str]]:
        found = {"policy": "ppo", "baseline": "sft"} | inherited(*gaps)
        section = judge_section("judge", {"n": 4, "inherited": found})
        return {row["name"]: (row["value"], row["reading"]) for row in section["rows"]}

    assert not any(name.startswith("inherited") for name in read(judge_section("judge", {"n": 4})))
    rows = shown([1, 1, 1, -1], [1, 1, -1, -1])
    value, reading = rows["inherited: verdicts"]
    assert value.startswith("+25.0 points [") and "prefers ppo over sft on 75.0% of 4 pairs, gold on 50.0%" in reading
    value, reading = rows["inherited: gaps"]
    assert value.startswith("+0.50 [") and "judge +0.50, gold +0.00" in reading
    assert [shown([], [])[f"inherited: {one}"][0] for one in ("verdicts", "gaps")] == ["unknown", "unknown"]
    assert shown([1], [0])["inherited: gaps"][0] == "unknown"
