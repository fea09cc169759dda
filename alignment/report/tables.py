"""The report's tables: numbers of report.json as rows for the templates."""

import math

from alignment.pipeline.recipes.pipeline_file import BASE
from alignment.report.charts.plots import Estimate, forest_axis, forest_row
from alignment.report.charts.scales import Scale, spread
from alignment.report.labels import (
    BITS,
    delta_text,
    metric_of,
    number,
    p_text,
    stage_name,
    suite_prefix,
    value_text,
    variant_texts,
)
from alignment.report.samples import MARKERS

CELL_WIDTH, CELL_MARGIN = 190, 10
SCORE_WIDTH, SCORE_HEIGHT = 120, 14
NORMAL_95 = 1.96


def order(row: dict) -> tuple:
    """Sort key: accuracies, rewards, then other metrics; chat before plain."""
    return (metric_of(row["metric"]).rank, row["format"] != "chat", row.get("suite") or "", row["metric"])


def is_whole(row: dict) -> bool:
    """Whether a row is the figure of a whole suite, not of one of its tasks."""
    return row["task"] == row.get("suite")


def row_name(row: dict, base: str | None) -> str:
    """A row's stage, followed by the options that set its eval run apart."""
    return ", ".join([stage_name(row["stage"], base), *variant_texts(row.get("variant") or {})])


def listed(report: dict, key: str, further: bool = False) -> list[dict]:
    """The rows of `evals` or `comparisons` of the pipeline's own suites, or of those run in addition to them.

    Without suites of a pipeline, every suite counts as its own.
    """
    others = report.get("further_suites") or []
    return [row for row in report[key] if (row.get("suite") in others) == further]


def verdicts(report: dict, further: bool = False) -> list[dict]:
    """One entry per stage: the headline differences from its parent, on the suites of `listed`."""
    sentences = []
    for stage, entry in report["stages"].items():
        compared = listed(report, "comparisons", further)
        own = [row for row in compared if row["b"] == stage and not row.get("variant")]
        rows = sorted((row for row in own if row.get("headline")), key=order)
        parents = {row["a"] for row in rows}
        if not parents:
            continue
        parent = entry["parent"] if entry.get("parent") in parents else min(parents)
        items = [
            {
                "text": f"{suite_prefix(row)}{row['format']} {metric_of(row['metric']).name} {delta_text(row)}",
                "verdict": row["verdict"],
            }
            for row in rows
            if row["a"] == parent
        ]
        title = f"{stage_name(stage)} against {stage_name(parent, report.get('base'))}"
        sentences.append({"title": title, "items": items})
    return sentences


def suite_table(report: dict, further: bool = False) -> dict:
    """Stages down, suites of `listed` across, each headline score with a picture on the column's axis.

    Variants such as few-shot runs have separate rows.
    """
    stages, base = list(report["stages"]), report.get("base")
    rows = [row for row in listed(report, "evals", further) if row.get("headline")]
    columns: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=order):
        columns.setdefault(order(row), []).append(row)
    scales = {key: _score_scale(column) for key, column in columns.items()}
    lines: dict[str, dict] = {}
    for row in sorted(rows, key=lambda row: (_place(row["stage"], stages), len(row.get("variant") or {}))):
        cell = _cell(row, _score_picture(row, scales[order(row)]))
        lines.setdefault(row_name(row, base), {})[order(row)] = cell
    heads = [
        {
            "name": metric_of(row["metric"]).name,
            "format": row["format"],
            "suite": row.get("suite"),
            "suite_named": row.get("suite_named"),
        }
        for row, *_ in columns.values()
    ]
    body = [{"name": name, "cells": [cells.get(key) for key in columns]} for name, cells in lines.items()]
    return {"columns": heads, "rows": body}


def _score_scale(column: list[dict]) -> Scale | None:
    """An axis for the intervals of a column's scores, and for chance if known."""
    known = [row for row in column if row.get("value") is not None]
    values = [end for row in known for end in (row["value"], *interval_of(row), row.get("chance"))]
    ends = [end for end in values if end is not None]
    return spread(ends, 4, SCORE_WIDTH - 4) if ends else None


def _score_picture(row: dict, scale: Scale | None) -> str | None:
    if row.get("value") is None or scale is None:
        return None
    estimate = Estimate(
        f"{value_text(row['metric'], row['value'])} with its 95% interval", row["value"], *interval_of(row)
    )
    return forest_row(estimate, scale, row.get("chance"), SCORE_HEIGHT)


def interval_of(row: dict) -> tuple[float | None, float | None]:
    """A score's 95% interval: the eval run's own; in older runs without one, the normal interval of the se.

    The normal interval is cut to the metric's possible values, as an eval run's own interval is.
    """
    if row.get("ci_low") is not None:
        return row["ci_low"], row["ci_high"]
    reach = NORMAL_95 * row["se"] if row.get("se") else None
    if reach is None:
        return None, None
    low, high = metric_of(row["metric"]).limits or (-math.inf, math.inf)
    return max(low, row["value"] - reach), min(high, row["value"] + reach)


def _cell(row: dict, picture: str | None = None) -> dict:
    scale, digits = metric_of(row["metric"]).scale, metric_of(row["metric"]).digits
    se = row.get("se")
    return {
        "value": value_text(row["metric"], row.get("value")),
        "n": row.get("n"),
        "se": None if se is None else number(se * scale, digits),
        "picture": picture,
    }


def task_tables(report: dict) -> list[dict]:
    """One table per suite, metric and format: tasks down, stages across."""
    groups: dict[tuple, list[dict]] = {}
    for row in report["evals"]:
        if not is_whole(row):
            groups.setdefault(order(row), []).append(row)
    return [_task_table(groups[key], report.get("base")) for key in sorted(groups)]


def _task_table(rows: list[dict], base: str | None) -> dict:
    names = list(dict.fromkeys(row_name(row, base) for row in rows))
    lines: dict[str, dict] = {}
    for row in rows:
        lines.setdefault(row["task"], {})[row_name(row, base)] = _cell(row)
    metric = rows[0]["metric"]
    return {
        "title": f"{metric_of(metric).name}, {rows[0]['format']}",
        "caption": _cost_caption(rows) if metric == BITS else "± one standard error, with the number of items.",
        "metric": metric,
        "format": rows[0]["format"],
        "suite": rows[0].get("suite"),
        "columns": names,
        "rows": [{"name": task, "cells": [cells.get(name) for name in names]} for task, cells in lines.items()],
    }


def _cost_caption(rows: list[dict]) -> str:
    """The caption of a table of bits per byte: which task's growth is the cost of alignment."""
    headline = next((row["task"] for row in rows if row.get("headline")), None)
    cost = f" Growth on {headline} is the cost of alignment; growth on the other tasks is not." if headline else ""
    return f"By task; lower is better.{cost}"


def regressions(report: dict) -> list[tuple[str, list[dict]]]:
    """(heading, rows) per stage: the items that fell below its parent."""
    pairs: dict[str, list[dict]] = {}
    for row in report.get("regressions") or []:
        names = {"before": stage_name(row["a"]), "after": stage_name(row["b"])}
        metric = metric_of(row["metric"])
        fall = f"{value_text(row['metric'], row['score_a'])} → {value_text(row['metric'], row['score_b'])}"
        shown = {"metric": metric.name, "fall": fall, "target": (row["target"] or "").strip()}
        shown["prompt"] = MARKERS.sub("", row["prompt"]).strip()
        pairs.setdefault(f"{names['before']} → {names['after']}", []).append(row | names | shown)
    return list(pairs.items())


def forests(report: dict, whole: bool) -> list[dict]:
    """One table of paired differences per metric, with a picture per row on a common axis.

    Args:
        report: the content of report.json.
        whole: the headline figures of suites; otherwise their tasks.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in report["comparisons"]:
        wanted = row.get("headline") if whole else not is_whole(row)
        if wanted and row.get("delta") is not None:
            groups.setdefault((metric_of(row["metric"]).rank, metric_of(row["metric"]).name), []).append(row)
    return [_forest(name, rows, report) for (_, name), rows in sorted(groups.items())]


def _place(stage: str, stages: list[str]) -> int:
    """A stage's position in the pipeline; the model that it starts from comes first, other stages outside it last."""
    if stage == BASE and BASE not in stages:
        return -1
    return stages.index(stage) if stage in stages else len(stages)


def _forest(name: str, rows: list[dict], report: dict) -> dict:
    shown = metric_of(rows[0]["metric"])
    scaled = [
        [row[key] * shown.scale for key in ("delta", "ci_low", "ci_high") if row.get(key) is not None] for row in rows
    ]
    ends = [0.0, *(value for values in scaled for value in values)]
    air = (max(ends) - min(ends)) * 0.06 or 1.0
    scale = Scale(min(ends) - air, max(ends) + air, CELL_MARGIN, CELL_WIDTH - CELL_MARGIN)
    stages = list(report["stages"])
    rows = sorted(rows, key=lambda row: (_place(row["b"], stages), -_place(row["a"], stages), order(row)))
    lines = [_forest_line(row, scale, report.get("base")) for row in rows]
    measured = "suite, format" if any(row.get("suite_named") for row in rows) else "format"
    return {"name": name, "unit": shown.unit, "measured": measured, "rows": lines, "axis": forest_axis(scale)}


def _forest_line(row: dict, scale: Scale, base: str | None) -> dict:
    shown = metric_of(row["metric"])
    low, high = (None if row.get(key) is None else row[key] * shown.scale for key in ("ci_low", "ci_high"))
    variant = variant_texts(row.get("variant") or {})
    pair = ", ".join([f"{stage_name(row['b'], base)} against {stage_name(row['a'], base)}", *variant])
    text = delta_text(row)
    picture = forest_row(Estimate(f"{pair}: {text}", row["delta"] * shown.scale, low, high, row["verdict"]), scale)
    moved = None if row.get("fixed") is None else f"{row['fixed']} / {row['regressed']}"
    return {
        "pair": pair,
        "format": f"{row['suite']}, {row['format']}" if row.get("suite_named") else row["format"],
        "task": row["task"],
        "picture": picture,
        "delta": text,
        "p": p_text(row.get("p_holm", row.get("p"))),
        "n": row.get("n"),
        "moved": moved,
        "mde": value_text(row["metric"], row.get("mde")),
        "verdict": row["verdict"],
        "reason": row.get("reason"),
    }
