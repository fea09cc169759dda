"""Two suites against each other by stage, as in helpfulness against harmlessness: which stages none dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.report.charts.figure_files import figure, pair_rows
from alignment.report.charts.plots import Estimate, pareto_chart
from alignment.report.labels import metric_of, number, stage_name, stage_tone
from alignment.report.tables import interval_of

FIGURES = ("metric", "format", "value", "n", "higher_is_better")


def pareto_points(rows: Sequence[dict], suites: Sequence[str], stages: Sequence[str]) -> dict[str, Any] | None:
    """The headline scores of two suites on each stage that was evaluated on both.

    Both are in one format, chat if there is a choice. A stage is dominated by another that is at least as good on both
    suites, and better on one, by the scores alone: their intervals say how sure that is.

    Args:
        rows: `evals` of report.json.
        suites: the suite of the x axis, and that of the y axis.
        stages: in the order of the pipeline, after the model that they start from.

    Returns:
        {suites, points: [{stage, scores: [{metric, format, value, low, high, n, higher_is_better}] * 2, dominated_by:
        [stage]}]}; None if no stage was evaluated on both.
    """
    found: dict[str, dict[tuple[str, str], dict]] = {}
    for row in rows:
        if row.get("headline") and not row.get("variant") and row.get("value") is not None:
            found.setdefault(row["format"], {})[row["stage"], row["suite"]] = row
    for form in sorted(found, key=lambda form: form != "chat"):
        scores = {
            stage: [_score(found[form][stage, suite]) for suite in suites]
            for stage in stages
            if all((stage, suite) in found[form] for suite in suites)
        }
        if scores:
            points = [
                {"stage": stage, "scores": own, "dominated_by": [name for name in scores if _beats(scores[name], own)]}
                for stage, own in scores.items()
            ]
            return {"suites": list(suites), "points": points}
    return None


def _score(row: dict) -> dict[str, Any]:
    low, high = interval_of(row)
    return {key: row.get(key) for key in FIGURES} | {"low": low, "high": high}


def _beats(scores: list[dict], others: list[dict]) -> bool:
    """Whether a stage's scores dominate another's."""
    gains = [
        (one["value"] - other["value"]) * (-1 if one["higher_is_better"] is False else 1)
        for one, other in zip(scores, others, strict=True)
    ]
    return min(gains) >= 0 and max(gains) > 0


def pareto_section(report: dict) -> dict[str, Any] | None:
    """The plot of two suites with its table; None without one."""
    found = report.get("pareto")
    if not found:
        return None
    pairs = [_pair(point, report) for point in found["points"]]
    labels = [_axis(suite, score) for suite, score in zip(found["suites"], found["points"][0]["scores"], strict=True)]
    best = [not point["dominated_by"] for point in found["points"]]
    title = f"{found['suites'][1]} against {found['suites'][0]}"
    form = found["points"][0]["scores"][0]["format"]
    caption = (
        f"A point for each stage, in {form} format; the thin line joins the stages in order. A ring marks a stage that "
        "no other dominates: no other is at least as good on both suites and better on one. Bars are 95% intervals "
        "over items, for one training seed."
    )
    svg = pareto_chart(pairs, best, title=f"{title}. {caption}", x_label=labels[0], y_label=labels[1])
    base = report.get("base")
    rows = [
        {
            "name": x.label,
            "scores": [_text(score) for score in point["scores"]],
            "dominated_by": ", ".join(stage_name(name, base) for name in point["dominated_by"]) or "none",
        }
        for (x, _), point in zip(pairs, found["points"], strict=True)
    ]
    return {"figure": figure(title, caption, svg, pair_rows(pairs, *labels)), "heads": labels, "rows": rows}


def _pair(point: dict, report: dict) -> tuple[Estimate, Estimate]:
    stage = point["stage"]
    label = stage_name(stage, report.get("base"))
    tone = stage_tone(stage, (report["stages"].get(stage) or {}).get("method"))
    x, y = (Estimate(label, *_scaled(score), tone) for score in point["scores"])
    return x, y


def _scaled(score: dict) -> tuple[float, float | None, float | None]:
    """A score and the ends of its interval in its metric's scale."""
    scale = metric_of(score["metric"]).scale
    low, high = (None if score[end] is None else score[end] * scale for end in ("low", "high"))
    return score["value"] * scale, low, high


def _axis(suite: str, score: dict) -> str:
    metric = metric_of(score["metric"])
    unit = " (%)" if metric.unit == "points" else ""
    lower = ", lower is better" if score["higher_is_better"] is False else ""
    return f"{suite}: {metric.name}{unit}{lower}"


def _text(score: dict) -> str:
    digits = metric_of(score["metric"]).digits
    value, low, high = (number(one, digits) for one in _scaled(score))
    interval = "" if score["low"] is None else f" [{low}, {high}]"
    return f"{value}{interval}, n = {score['n']:,}"
