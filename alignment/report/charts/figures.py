"""The report's charts of training curves and scores, each with a caption."""

import math
import re
from dataclasses import dataclass

from alignment.report.charts.figure_files import estimate_rows, figure, pair_rows, panel_rows, series_rows
from alignment.report.charts.plots import Estimate, Panel, Series, dot_chart, line_chart, panel_chart, scatter
from alignment.report.charts.scales import spread
from alignment.report.labels import ACCURACIES, BITS, metric_of, number, stage_name, stage_tone
from alignment.report.tables import interval_of, listed

REWARD = re.compile("rewards/(.+)/mean")


@dataclass(frozen=True)
class Chart:
    """A line chart, drawn for every stage that logged one of its keys.

    Attributes:
        title, y_label, caption: text of the chart.
        lines: (logged key, label) of each line.
        log: whether the y axis may be logarithmic.
        unless: a stage that logged this key has no such chart.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    y_label: str
    caption: str
    log: bool = False
    unless: str = ""


CHARTS = (
    Chart(
        "loss",
        (("loss", "training"), ("eval_loss", "held out")),
        "loss",
        "The loss at each logged step; lower is better.",
        log=True,
        unless="reward",
    ),
    Chart(
        "accuracy on pairs",
        (("rewards/accuracies", "training"), ("eval_rewards/accuracies", "held out")),
        "share of pairs",
        "The share of pairs whose chosen answer gets the higher implicit reward; 0.5 is chance.",
    ),
    Chart(
        "reward margin",
        (("rewards/margins", "training"), ("eval_rewards/margins", "held out")),
        "margin",
        "Implicit reward of the chosen answer less that of the rejected answer.",
    ),
    Chart(
        "implicit rewards",
        (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")),
        "implicit reward",
        "Scaled gain in log-probability over the reference, for chosen and rejected training answers.",
    ),
    Chart(
        "accuracy on pairs",
        (("accuracy", "training"), ("eval_accuracy", "held out")),
        "share of pairs",
        "The share of pairs whose chosen answer gets the higher reward; 0.5 is chance.",
    ),
    Chart(
        "margin on pairs",
        (("margin", "training"), ("eval_margin", "held out")),
        "margin",
        "The reward model's score of the chosen answer less that of the rejected answer.",
    ),
    Chart(
        "reward",
        (("reward", "training"), ("eval_reward", "held out")),
        "reward",
        "Mean reward of answers sampled from the policy: the weighted sum that training maximises.",
    ),
    Chart(
        "KL to the reference",
        (("kl/completion", "training"), ("eval_kl/completion", "held out")),
        "nats per answer",
        "Distance of the policy's answers from those of the model that it started from; growth without more reward "
        "is drift.",
    ),
    Chart(
        "KL to the reference",
        (("kl", "training"), ("eval_kl", "held out")),
        "nats per token",
        "Distance of the policy's answers from those of the model that it started from; growth without more reward "
        "is drift.",
        unless="kl/completion",
    ),
    Chart(
        "entropy",
        (("entropy", "training"), ("eval_entropy", "held out")),
        "nats per token",
        "Mean entropy of the next-token distribution; near 0 the policy has only one answer per prompt.",
    ),
    Chart(
        "answer length",
        (("completions/mean_length", "training"), ("eval_completions/mean_length", "held out")),
        "tokens",
        "Mean length of the sampled answers; steady growth suggests that the reward favours length.",
    ),
    Chart(
        "explained variance",
        (("value/explained_variance", "critic"),),
        "share of variance",
        "The share of the returns' variance that the critic explains; 1 is all of it, 0 what a constant explains.",
    ),
    Chart(
        "clip ratio",
        (("clip_ratio/region_mean", "clipped"),),
        "share of tokens",
        "The share of tokens whose probability ratio was clipped; a large share means that updates are too large.",
    ),
)


def training_figures(curves: dict) -> list[dict]:
    """The charts of every stage, in the order of the stages."""
    figures = []
    for stage, logged in curves.items():
        drawn = [_draw(chart, stage_name(stage), logged) for chart in CHARTS]
        figures += [figure for figure in drawn if figure] + _watched_figures(stage_name(stage), logged)
    return figures


def _draw(chart: Chart, stage: str, logged: dict) -> dict | None:
    series = [
        Series(label, [(step, value) for step, value in logged[key]], index)
        for index, (key, label) in enumerate(chart.lines)
        if logged.get(key)
    ]
    if not series or chart.unless in logged:
        return None
    title = f"{stage}: {chart.title}"
    svg = line_chart(series, title=f"{title}. {chart.caption}", x_label="step", y_label=chart.y_label, log=chart.log)
    return figure(title, chart.caption, svg, series_rows(series, "step", chart.y_label))


def _watched_figures(stage: str, logged: dict) -> list[dict]:
    """The reward trained on, above each other logged reward; with a logged KL, frontiers.py draws them instead."""
    rewards = {found[1]: curve for key, curve in logged.items() if (found := REWARD.fullmatch(key))}
    trained_on = logged.get("reward", [])
    others = {name: curve for name, curve in rewards.items() if not _same(curve, trained_on)}
    if len(rewards) < 2 or not trained_on or not others or "kl/completion" in logged:
        return []
    caption = (
        "Top: the reward that is trained on; below: other logged rewards. All should rise; if only the top curve does, "
        "the policy exploits the reward model."
    )
    title = f"{stage}: reward against {', '.join(others)}"
    panels = [
        Panel(name, (Series(name, curve, index),))
        for index, (name, curve) in enumerate({"reward (trained on)": trained_on, **others}.items())
    ]
    svg = panel_chart(panels, title=title, x_label="step")
    return [figure(title, caption, svg, panel_rows(panels, "step"))]


def _same(curve: list, other: list) -> bool:
    """Whether two curves are equal up to rounding: the only reward that is trained on is `reward` itself."""
    values = [[value for _, value in points] for points in (curve, other)]
    near = (math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5) for a, b in zip(*values, strict=False))
    return len(curve) == len(other) and all(near)


def score_figures(report: dict) -> list[dict]:
    """Each suite's headline score by stage with its 95% interval: one chart per suite, metric and format.

    Accuracies and bits per byte are not among them: `tax_figures` has them.
    """
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in report["evals"]:
        wanted = row.get("headline") and not row.get("variant") and row.get("higher_is_better")
        if wanted and row.get("value") is not None and row["metric"] not in (*ACCURACIES, BITS):
            groups.setdefault((row["metric"], row["format"], row["suite"]), []).append(row)
    metrics = [(metric, form) for metric, form, _ in groups]
    drawn = []
    for (metric, form, suite), rows in sorted(groups.items()):
        name = metric_of(metric).name + ("" if metrics.count((metric, form)) == 1 else f" of {suite}")
        drawn.append(_score_figure(metric, f"{name[:1].upper()}{name[1:]}", form, rows, report))
    return drawn


def _score_figure(metric: str, name: str, form: str, rows: list[dict], report: dict) -> dict:
    estimates = [_score_estimate(row, report.get("base"), _tone(row["stage"], report)) for row in rows]
    ends = [end for estimate in estimates for end in (estimate.value, estimate.low, estimate.high) if end is not None]
    room = spread(ends, 0, 1)
    low, high = metric_of(metric).limits or (room.low, room.high)
    svg = dot_chart(
        estimates, title=f"{name} by stage, {form} format", x_label=metric_of(metric).name, low=low, high=high
    )
    caption = f"{metric_of(metric).about}, with 95% intervals."
    return figure(f"{name}, {form} format", caption, svg, estimate_rows(estimates, "stage", metric_of(metric).name))


def _score_estimate(row: dict, base: str | None, tone: int) -> Estimate:
    value, (low, high) = row["value"], interval_of(row)
    note = number(value, 2) if low is None else f"{number(value, 2)} [{number(low, 2)}, {number(high, 2)}]"
    return Estimate(stage_name(row["stage"], base), value, low, high, tone, note)


def tax_figures(report: dict) -> list[dict]:
    """The gain of alignment (accuracy over base) against its cost (bits per byte over base).

    One chart per suite with an accuracy; in chat format, if any suite was run in it. The cost is that of the first
    suite with bits per byte.
    """
    base = report.get("base")
    own = listed(report, "comparisons")
    rows = [row for row in own if row["a"] == base and row.get("headline") and not row.get("variant")]
    gained = [row for row in rows if row["metric"] in ACCURACIES]
    form = "chat" if any(row["format"] == "chat" for row in gained) else "plain"
    bits = [row for row in rows if row["metric"] == BITS]
    costs = {row["b"]: row for row in bits if (row["suite"], row["task"]) == (bits[0]["suite"], bits[0]["task"])}
    suites: dict[str, list[dict]] = {}
    for row in gained:
        if row["format"] == form and row["b"] in costs:
            suites.setdefault(row["suite"], []).append(row)
    return [
        _tax_figure([(gain, costs[gain["b"]]) for gain in gains], report, suite if len(suites) > 1 else "")
        for suite, gains in suites.items()
    ]


def _tax_figure(pairs: list[tuple[dict, dict]], report: dict, suite: str) -> dict:
    gain, cost = pairs[0]
    text = cost["suite"] if cost["task"] == cost["suite"] else f"{cost['suite']}: {cost['task']}"
    caption = (
        f"Each stage against base: to the right, {gain['format']} accuracy gained; upwards, bits per byte lost on "
        f"held-out text ({text}). Lower right is best; bars are 95% intervals."
    )
    points = [(_delta(gain, report), _delta(cost, report)) for gain, cost in pairs]
    x_label, y_label = f"{gain['format']} accuracy gained (points)", "change in bits per byte"
    svg = scatter(points, title=f"Alignment tax. {caption}", x_label=x_label, y_label=y_label)
    title = "Gain against cost" + (f", {suite}" if suite else "")
    return figure(title, caption, svg, pair_rows(points, x_label, y_label))


def _delta(row: dict, report: dict) -> Estimate:
    scale = metric_of(row["metric"]).scale
    low, high = (None if row.get(key) is None else row[key] * scale for key in ("ci_low", "ci_high"))
    label = stage_name(row["b"], report.get("base"))
    return Estimate(label, row["delta"] * scale, low, high, _tone(row["b"], report))


def _tone(stage: str, report: dict) -> int:
    return stage_tone(stage, (report["stages"].get(stage) or {}).get("method"))
