"""The frontier and the reward card on the page agree with report.json."""

import json
import re

import numpy as np
import pytest

from alignment.report.charts.frontiers import frontier_section, logged_frontiers
from alignment.report.charts.reward_figures import card_section, subset_table
from alignment.report.content import collect
from alignment.report.render import render
from eval.frontier.curves import Point, frontier
from eval.frontier.points import logged_points
from eval.frontier.scaling_fits import fit
from reward_models.card.best_of_n import best_of_n


@pytest.fixture
def run_dir(make_run, tmp_path):
    return make_run(tmp_path / "tiny", evaluated=())


def metrics(**watched) -> list[dict]:
    return [
        {"step": step, "reward": step / 10, "kl/completion": step / 5, "rewards/model/mean": step / 10}
        | {f"rewards/{name}/mean": curve(step) for name, curve in watched.items()}
        for step in range(1, 41)
    ]


def section(html: str, title: str) -> str:
    return " ".join(html.split(f"<h2>{title}</h2>")[1].split("</section>")[0].split())


def test_the_frontier_of_a_run_comes_from_its_log(run_dir):
    report = json.loads(json.dumps(collect(run_dir), allow_nan=False))
    rows = [json.loads(line) for line in (run_dir / "ppo/metrics.jsonl").read_text().splitlines()]
    points, _ = logged_points(rows)
    [found] = report["frontiers"]
    assert found == {"stage": "ppo", "source": "log", "proxy": "reward", "gold": "gold_reward", **frontier(points)}
    page, peak = section(render(report), "Reward and distance"), found["peak"]
    assert f"at step {peak['step']} (95% interval {peak['low']} to {peak['high']})" in page
    assert "over-optimised since" in page and peak["over_optimised"]
    for one in found["fits"]:
        assert f"{one['beta']:.3f} ± {one['beta_se']:.3f}".replace("-", "\N{MINUS SIGN}") in page


def test_the_peak_and_the_fit_are_drawn_where_they_are():
    [found] = logged_frontiers("ppo", metrics(gold=lambda step: -((step - 20) ** 2) / 400))
    by_distance, by_step = (one["svg"] for one in frontier_section(found)["figures"])
    for svg, key in ((by_distance, "distance"), (by_step, "step")):
        places = list(map(float, re.findall(r'class="dot t1" cx="([\d.]+)"', svg)))
        peak = set(map(float, re.findall(r'class="peak" x1="([\d.]+)"', svg)))
        assert len(places) == 40 and peak == {places[found["peak"]["index"]]}
        assert places[20] - places[10] == pytest.approx(
            (found["points"][20][key] - found["points"][10][key])
            / (found["points"][39][key] - found["points"][0][key])
            * (places[39] - places[0]),
            abs=0.2,
        )
    assert found["peak"]["step"] == 20
    assert by_distance.count("<polyline") == 2 and by_step.count("<polyline") == 1


def test_the_fitted_curve_goes_through_points_that_it_fits():
    kl = [step / 5 for step in range(1, 41)]
    gold = {step: 0.2 + kl[step - 1] ** 0.5 * (1.5 - 0.9 * np.log(kl[step - 1] ** 0.5)) for step in range(1, 41)}
    [found] = logged_frontiers("ppo", metrics(gold=gold.get))
    svg = frontier_section(found)["figures"][0]["svg"]
    line = re.findall(r'<polyline class="line tink" points="([^"]+)"', svg)[1].split()
    xs, ys = zip(*(map(float, point.split(",")) for point in line), strict=True)
    for x, y in re.findall(r'class="dot t1" cx="([\d.]+)" cy="([\d.]+)"', svg):
        assert np.interp(float(x), xs, ys) == pytest.approx(float(y), abs=0.6)


def test_intervals_of_measured_points_are_of_95_percent():
    points = [Point(step, step, 1.0, step / 4, None, 0.25) for step in range(4)]
    found = {"stage": "ppo", "source": "checkpoints", "proxy": "r", "gold": "gold", **frontier(points)}
    svg = frontier_section(found)["figures"][0]["svg"]
    ys = [float(y) for y in re.findall(r'class="dot t1" cx="[\d.]+" cy="([\d.]+)"', svg)]
    lengths = [float(a) - float(b) for a, b in re.findall(r'class="range t1" [^>]*y1="([\d.]+)" y2="([\d.]+)"', svg)]
    assert lengths == pytest.approx([2 * 1.96 * (ys[0] - ys[1])] * 4, rel=0.03) and "range t0" not in svg


def test_without_a_gold_reward_the_page_says_how_to_log_one():
    [found] = logged_frontiers("ppo", metrics())
    shown = frontier_section(found)
    assert found["gold"] is None and shown["peak"] is None and len(shown["figures"]) == 1
    assert [one["of"] for one in shown["fits"]] == ["proxy"]


def test_a_run_that_never_fell_is_not_called_over_optimised():
    [found] = logged_frontiers("ppo", metrics(gold=lambda step: step / 20))
    shown = frontier_section(found)
    assert shown["peak"]["word"] == "no fall beyond noise" and "over-optimised" not in shown["figures"][0]["caption"]


def test_each_reward_that_is_not_trained_on_has_a_frontier():
    found = logged_frontiers("ppo", metrics(gold=lambda step: step / 20, other=lambda step: -step / 20))
    assert [one["gold"] for one in found] == ["gold", "other"]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        metrics()[:3],
        [{"step": step, "reward": 1.0} for step in range(9)],
        [{"step": step, "reward": None, "kl/completion": 1.0} for step in range(9)],
    ],
    ids=["nothing", "too few", "no KL", "no reward"],
)
def test_logs_without_a_frontier(rows):
    assert logged_frontiers("ppo", rows) == []


def test_a_measured_frontier_replaces_that_of_the_log(run_dir):
    points, _ = logged_points(metrics(gold=lambda step: 1.0))
    measured = {"stage": "ppo", "source": "checkpoints", "proxy": "a/reward", "gold": "r:gold?x=1", **frontier(points)}
    (run_dir / "ppo/frontier.json").write_text(json.dumps(measured))
    report = collect(run_dir)
    assert report["frontiers"] == [measured]
    page = section(render(report), "Reward and distance")
    assert "One dot per checkpoint" in page and "reward against gold<" in page


def test_the_card_of_the_reward_stage_is_on_the_page(run_dir):
    report = collect(run_dir)
    card = report["reward_cards"]["reward"]
    assert card == report["reward_model"] == report["stages"]["reward"]["metrics"]["pairwise"]
    page = section(render(report), "Reward model")
    for figure in ("Accuracy on pairs", "Reliability", "Accuracy by margin", "Accuracy by length", "Accuracy by gap"):
        assert f"<h4>{figure}" in page
    for key in ("by_margin", "by_length", "by_gap"):
        assert f"Pairs: {', '.join(str(one['n']) for one in card[key])}." in page
        assert all(f">{one['accuracy']:.2f}</text>" in page for one in card[key])
    for value in (card["calibration"]["ece"], card["calibration"]["brier"], card["calibration"]["log_loss"]):
        assert f"<dd>{value:.3f}</dd>" in page
    assert f"<dd>{card['length_baseline']:.1%}</dd>" in page and f"preferring the {card['length_rule']} answer" in page
    names = re.findall(r'<tr><td>(\w+)</td><td class="picture">', page)
    assert names == [one["name"] for one in sorted(card["by_subset"], key=lambda one: one["accuracy"])]
    assert "Best of n</h4>" not in page and "align reward-card reward/checkpoint --samples FILE" in page


def test_reliability_compares_confidence_with_accuracy():
    bins = [
        {"n": 4, "confidence": 0.6, "accuracy": 0.5, "se": 0.1},
        {"n": 9, "confidence": 0.9, "accuracy": 0.8, "se": None},
    ]
    bins.insert(1, {"n": 0, "confidence": None, "accuracy": None, "se": None})
    card = {"n": 13, "accuracy": 0.7, "se": 0.1, "length_baseline": 0.5, "length_rule": "longer"}
    card["calibration"] = {"n": 13, "ece": 0.1, "brier": 0.2, "log_loss": 0.6, "bins": bins}
    [svg] = [one["svg"] for one in card_section("reward", card)["figures"] if one["title"] == "Reliability"]
    (x1, y1), (x2, y2) = (map(float, point) for point in re.findall(r'dot t0" cx="([\d.]+)" cy="([\d.]+)"', svg))
    (a1, b1), (a2, b2) = (map(float, point) for point in re.findall(r'dot t4" cx="([\d.]+)" cy="([\d.]+)"', svg))
    diagonal = [b1 + (x - a1) / (a2 - a1) * (b2 - b1) for x in (x1, x2)]
    assert y1 - diagonal[0] == pytest.approx(y2 - diagonal[1], abs=0.3) and y1 - diagonal[0] > 10  # 0.1 too sure
    [(low, high)] = re.findall(r'class="range t0" [^>]*y1="([\d.]+)" y2="([\d.]+)"', svg)
    assert (float(low) - float(high)) / (y1 - diagonal[0]) == pytest.approx(2 * 1.96, rel=0.03)


def test_best_of_n_is_added_with_its_fits(run_dir):
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(60, 16))
    curve = best_of_n((gold + rng.normal(size=gold.shape)).tolist(), gold.tolist())
    (run_dir / "reward/reward_card").mkdir()
    (run_dir / "reward/reward_card/reward_card.json").write_text(json.dumps({"pairs": None, "best_of_n": curve}))
    report = collect(run_dir)
    card = report["reward_cards"]["reward"]
    assert card["best_of_n"] == curve and card["accuracy"] == report["reward_model"]["accuracy"]
    distance = np.sqrt([one["kl"] for one in curve])
    expected = fit(distance, np.array([one["gold"] for one in curve]), "best_of_n")
    assert card["best_of_n_fits"][1] == {"of": "gold"} | expected
    page = section(render(report), "Reward model")
    last = curve[-1]
    assert f'>16</td><td class="num">{last["kl"]:.2f}</td><td class="num">{last["proxy"]:.3f}</td>' in page
    assert f"{last['gold']:.3f} ± {last['gold_se']:.3f}" in page and "Best of n</h4>" in page
    assert f"{expected['alpha']:.3f} ± {expected['alpha_se']:.3f}" in page and "--samples FILE" not in page


def test_a_later_card_of_pairs_replaces_the_stages(run_dir):
    later = {"n": 2, "accuracy": 0.5, "se": 0.5, "length_rule": "longer", "length_baseline": 1.0}
    (run_dir / "reward/reward_card").mkdir()
    (run_dir / "reward/reward_card/reward_card.json").write_text(json.dumps(later))
    report = collect(run_dir)
    assert report["reward_cards"] == {"reward": later} and report["reward_model"]["n"] > 2
    assert "50.0% ± 50.0%" in section(render(report), "Reward model")


def test_a_page_without_rewards_has_neither_section(make_run, tmp_path):
    html = render(collect(make_run(tmp_path / "tiny", ("tokenizer", "pretrain"), ())))
    assert "<h2>Reward model</h2>" not in html and "<h2>Reward and distance</h2>" not in html


def test_a_subset_without_errors_has_an_interval():
    rows = [{"name": "few", "n": 4, "accuracy": 1.0}, {"name": "one", "n": 1, "accuracy": 1.0}]
    few, one = (row["accuracy"] for row in subset_table(rows)["rows"])
    low = float(re.fullmatch(r"100.0% \[([\d.]+)%, 100.0%\]", few)[1])
    assert 15 < low < 60 and one == "100.0% [\N{EN DASH}, \N{EN DASH}]"
