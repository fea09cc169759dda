"""The page's section on the rows that the run made: counts, histograms of scores, and examples."""

from __future__ import annotations

from typing import Any

from alignment.report.charts.figure_files import figure
from alignment.report.charts.plots import Series, line_chart
from alignment.report.first_screen.trained_on import amount_text
from alignment.report.labels import DASH, count, duration, number, stage_name

TEXT_COLUMNS = ("completion", "chosen", "rejected", "reply_a", "reply_b", "messages", "steps", "judged")
# (title, ((column, label), ...), label of the axis, caption)
HISTOGRAMS = (
    ("scores", (("score", "score"),), "score", "Scores of the rows by the reward that judged them."),
    (
        "scores of pairs",
        (("score_chosen", "chosen"), ("score_rejected", "rejected")),
        "score",
        "Scores of the chosen and of the rejected replies. The further apart, the clearer the pairs.",
    ),
    (
        "margins of pairs",
        (("score_margin", "margin"),),
        "score of chosen less score of rejected",
        "Near 0 the reward hardly distinguishes the two replies; below 0 the rejected reply scores higher.",
    ),
    (
        "preferences",
        (("preference", "preference"),),
        "probability",
        "Probabilities by the judge. Near 0.5 it is undecided.",
    ),
)


def rows_sections(report: dict) -> list[dict]:
    """One entry per data stage: title, facts, counts, figures, columns and rows of its examples, what is wrong."""
    return [_section(name, stage) for name, stage in report["stages"].items() if stage.get("rows")]


def _section(name: str, stage: dict) -> dict:
    made = stage["rows"]
    title = stage_name(name)
    return {
        "title": title,
        "problem": made.get("problem"),
        "left_out": f"{name}/data/left_out.jsonl" if made.get("left_out") else None,
        "facts": _facts(stage, made),
        "counts": [(reason, f"{value:,}") for reason, value in made["counts"].items()],
        "figures": histogram_figures(title, made["scores"]),
        **_examples(made["examples"]),
    }


def _facts(stage: dict, made: dict) -> list[tuple[str, str]]:
    tokens, seconds = made.get("tokens"), stage.get("seconds")
    facts = [
        ("rows made", amount_text(made["rows"], made.get("kind")) if made.get("rows") is not None else None),
        ("rows read", f"{made['read']:,}" if made.get("read") is not None else None),
        ("tokens generated", count(tokens) if tokens else None),
        ("time", duration(seconds) if seconds else None),
        ("tokens per second", count(tokens / seconds) if tokens and seconds else None),
    ]
    return [(label, value) for label, value in facts if value]


def histogram_figures(stage: str, scores: dict[str, dict]) -> list[dict]:
    """A figure for each kind of score that the rows have; the lines of a figure have the same ranges."""
    drawn = []
    for title, lines, axis, caption in HISTOGRAMS:
        found = [(label, scores[column]) for column, label in lines if (scores.get(column) or {}).get("counts")]
        if found:
            drawn.append(_histogram(f"{stage}: {title}", found, axis, caption))
    return drawn


def _histogram(title: str, lines: list[tuple[str, dict]], axis: str, caption: str) -> dict:
    series = [Series(label, outline(found), tone) for tone, (label, found) in enumerate(lines)]
    means = "; ".join(f"{label}: {_summary(found)}" for label, found in lines)
    text = f"{caption} {means[:1].upper()}{means[1:]}."
    svg = line_chart(series, title=f"{title}. {text}", x_label=axis, y_label="rows")
    rows: list[list[Any]] = [["series", "low", "high", "rows"]]
    for label, found in lines:
        rows += [
            [label, *ends, value]
            for ends, value in zip(zip(found["edges"], found["edges"][1:], strict=False), found["counts"], strict=True)
        ]
    return figure(title, text, svg, rows)


def _summary(found: dict) -> str:
    missing = f", {found['missing']:,} without" if found.get("missing") else ""
    return f"mean {number(found['mean'])} of {found['n']:,}{missing}"


def outline(found: dict) -> list[tuple[float, float]]:
    """The steps of a histogram as points, from zero and back to zero; all rows with one value are a spike."""
    edges, counts = found["edges"], found["counts"]
    points = [(edges[0], 0.0)]
    for low, high, value in zip(edges, edges[1:], counts, strict=False):
        points += [(low, float(value)), (high, float(value))]
    return [*points, (edges[-1], 0.0)]


def _examples(examples: list[dict]) -> dict:
    """Columns of texts, and rows {label: the other values, prompt, texts}."""
    columns = [column for column in TEXT_COLUMNS if any(row.get(column) for row in examples)]
    rows = [
        {
            "label": ", ".join(f"{key} {_value(value)}" for key, value in row.items() if key not in known(columns)),
            "prompt": row.get("prompt"),
            "texts": {column: row.get(column) for column in columns},
        }
        for row in examples
    ]
    return {"columns": columns, "rows": rows}


def known(columns: list[str]) -> tuple[str, ...]:
    """The columns that have a place of their own in the table of examples."""
    return ("prompt", *columns)


def _value(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 2) if isinstance(value, float) else str(value)
