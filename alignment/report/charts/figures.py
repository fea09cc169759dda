"""Which charts the report draws, each with the one sentence that says what it shows."""

import math
import re
from dataclasses import dataclass

from alignment.report.charts.plots import Estimate, Panel, Series, dot_chart, line_chart, panel_chart, scatter
from alignment.report.labels import ACCURACIES, metric_of, number, stage_name
from alignment.report.tables import interval_of

TONES = {"pretrain": 4, "sft": 0, "reward": 3, "dpo": 1, "ppo": 2}
REWARD = re.compile("rewards/(.+)/mean")


@dataclass(frozen=True)
class Chart:
    """A line chart that is drawn for every stage that logged one of its keys."""

    title: str
    lines: tuple[tuple[str, str], ...]
    y_label: str
    caption: str
    log: bool = False
    unless: str = ""  # not drawn for a stage that logged this key


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
        "How far the implicit reward of the chosen answer lies above that of the rejected one.",
    ),
    Chart(
        "implicit rewards",
        (("rewards/chosen", "chosen"), ("rewards/rejected", "rejected")),
        "implicit reward",
        "Scaled gain in log-probability over the reference, for chosen and for rejected training answers.",
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
        "The reward model's score of the chosen answer less that of the rejected one.",
    ),
    Chart(
        "reward",
        (("reward", "training"), ("eval_reward", "held out")),
        "reward",
        "Mean reward of answers sampled from the policy: the weighted sum that training raises.",
    ),
    Chart(
        "KL to the reference",
        (("kl/completion", "training"), ("eval_kl/completion", "held out")),
        "nats per answer",
        "How far the policy's answers have moved from those of the model that it started from; growth that brings no "
        "more reward is drift.",
    ),
    Chart(
        "KL to the reference",
        (("kl", "training"), ("eval_kl", "held out")),
        "nats per token",
        "How far the policy's answers have moved from those of the model that it started from; growth that brings no "
        "more reward is drift.",
        unless="kl/completion",
    ),
    Chart(
        "entropy",
        (("entropy", "training"), ("eval_entropy", "held out")),
        "nats per token",
        "Mean entropy of the next-token distribution; near 0 there is but one answer left to each prompt.",
    ),
    Chart(
        "answer length",
        (("completions/mean_length", "training"), ("eval_completions/mean_length", "held out")),
        "tokens",
        "Mean length of the sampled answers; steady growth suggests that length is being rewarded.",
    ),
    Chart(
        "explained variance",
        (("value/explained_variance", "critic"),),
        "share of variance",
        "How much of the variance of the returns the critic explains; 1 is all of it, 0 what a constant would explain.",
    ),
    Chart(
        "clip ratio",
        (("clip_ratio/region_mean", "clipped"),),
        "share of tokens",
        "The share of tokens whose probability ratio was clipped; a large one means updates that are too big.",
    ),
)


def tone(stage: str) -> int:
    return TONES.get(stage, 5)


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
    return {"title": title, "caption": chart.caption, "svg": svg}


def _watched_figures(stage: str, logged: dict) -> list[dict]:
    """The reward trained on above each that is logged beside it; where the KL is known, frontiers.py draws both."""
    rewards = {found[1]: curve for key, curve in logged.items() if (found := REWARD.fullmatch(key))}
    trained_on = logged.get("reward", [])
    beside = {name: curve for name, curve in rewards.items() if not _same(curve, trained_on)}
    if len(rewards) < 2 or not trained_on or not beside or "kl/completion" in logged:
        return []
    caption = (
        "At the top the reward that training sees, below it what is logged beside. Both should rise; where only the "
        "upper one does, the policy learns to please the reward model and nothing else."
    )
    title = f"{stage}: reward against {', '.join(beside)}"
    panels = [
        Panel(name, (Series(name, curve, index),))
        for index, (name, curve) in enumerate({"reward (trained on)": trained_on, **beside}.items())
    ]
    return [{"title": title, "caption": caption, "svg": panel_chart(panels, title=title, x_label="step")}]


def _same(curve: list, other: list) -> bool:
    """Whether two curves are one but for rounding: a reward that alone is trained on is `reward` itself."""
    values = [[value for _, value in one] for one in (curve, other)]
    near = (math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5) for a, b in zip(*values, strict=False))
    return len(curve) == len(other) and all(near)


def gold_figures(report: dict) -> list[dict]:
    """The gold reward of every stage with its 95% interval, a chart a format."""
    base, drawn = report.get("base"), []
    rows = [
        row
        for row in report["evals"]
        if row["metric"] == "gold_reward" and row.get("headline") and row.get("value") is not None
    ]
    for form in sorted({row["format"] for row in rows}):
        picked = [row for row in rows if row["format"] == form and not row.get("variant")]
        estimates = [_gold_estimate(row, base) for row in picked]
        if estimates:
            svg = dot_chart(
                estimates, title=f"Gold reward by stage, {form} format", x_label="gold reward", low=-1, high=1
            )
            caption = "Mean score by the program that knows the truth, from \N{MINUS SIGN}1 to 1, with 95% intervals."
            drawn.append({"title": f"Gold reward, {form} format", "caption": caption, "svg": svg})
    return drawn


def _gold_estimate(row: dict, base: str | None) -> Estimate:
    value, (low, high) = row["value"], interval_of(row)
    note = number(value, 2) if low is None else f"{number(value, 2)} [{number(low, 2)}, {number(high, 2)}]"
    return Estimate(stage_name(row["stage"], base), value, low, high, tone(row["stage"]), note)


def tax_figure(report: dict) -> dict | None:
    """What alignment bought (chat accuracy over base) against what it cost (bits per byte over base)."""
    base = report.get("base")
    rows = [row for row in report["comparisons"] if row["a"] == base and row.get("headline")]
    gains = {row["b"]: row for row in rows if row["format"] == "chat" and row["metric"] in ACCURACIES}
    costs = {row["b"]: row for row in rows if row["metric"] == "bits_per_byte"}
    points = [(_delta(gains[stage], base), _delta(costs[stage], base)) for stage in gains if stage in costs]
    if not points:
        return None
    caption = (
        "Each stage against base: to the right, chat accuracy gained; upwards, bits per byte lost on held-out "
        "clean text. Lower right is best; bars are 95% intervals."
    )
    svg = scatter(
        points,
        title=f"Alignment tax. {caption}",
        x_label="chat accuracy gained (points)",
        y_label="change in bits per byte",
    )
    return {"title": "Gain against cost", "caption": caption, "svg": svg}


def _delta(row: dict, base: str | None) -> Estimate:
    scale = metric_of(row["metric"]).scale
    low, high = (None if row.get(key) is None else row[key] * scale for key in ("ci_low", "ci_high"))
    return Estimate(stage_name(row["b"], base), row["delta"] * scale, low, high, tone(row["b"]))
