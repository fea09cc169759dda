"""A comparison of runs as a self-contained HTML page."""

from hashlib import sha256
from pathlib import Path

from alignment.report.charts.figure_files import figure, series_rows
from alignment.report.charts.figures import CHARTS
from alignment.report.charts.plots import Series, line_chart
from alignment.report.first_screen.outcomes import row_text
from alignment.report.first_screen.smoke import WARNING
from alignment.report.labels import stage_name
from alignment.report.render import page_style, template_environment
from alignment.report.runs.runs_text import difference_values
from alignment.report.tables import forests, order

TONES = 6  # colours of the style sheet
GENERATOR = '<meta name="generator" content="align report: '


def identity(folders: list[Path]) -> str:
    """A digest of the places of the compared runs, by which a page of the same comparison is recognised."""
    return sha256("\0".join(str(folder.resolve()) for folder in folders).encode()).hexdigest()[:16]


def is_page_of(path: Path, folders: list[Path]) -> bool:
    """Whether a file is a page of this comparison, which a new page may replace."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return f'{GENERATOR}{identity(folders)}">' in file.read(2000)


def render_runs(comparison: dict, folders: list[Path]) -> str:
    """Render the content of compared_runs.compare_runs as a page without external files."""
    runs = comparison["runs"]
    names = [run["name"] for run in runs]
    smoke = [run for run in runs if run["smoke"]]
    curves = {stage: overlaid_figures(stage, logged) for stage, logged in comparison["curves"].items()}
    content = {
        "style": page_style(),
        "generator": f'{GENERATOR}{identity(folders)}">',
        "title": f"{', '.join(names[1:])} against {names[0]}",
        "runs": [run | {"stage_names": [stage_name(stage) for stage in run["stages"]]} for run in runs],
        "smoke": {"title": WARNING, "text": f"{', '.join(run['name'] for run in smoke)} trained for two steps."}
        if smoke
        else None,
        "summaries": _summaries(comparison),
        "pairs": [_pair(comparison, names[0], name) for name in names[1:]],
        "training": [{"name": stage_name(stage), "figures": drawn} for stage, drawn in curves.items() if drawn],
    }
    return template_environment().get_template("runs.html.jinja").render(content)


def _summaries(comparison: dict) -> list[dict]:
    """One line per pair and stage: the headline differences."""
    found: dict[tuple, list[dict]] = {}
    for row in comparison["comparisons"]:
        if row["headline"] and not row.get("variant"):
            found.setdefault((row["a"], row["b"], row["stage"]), []).append(row)
    several = len(comparison["runs"]) > 2
    return [
        {
            "title": f"{stage_name(stage)}: {b} against {a}" if several else stage_name(stage),
            "items": [{"text": row_text(row), "verdict": row["verdict"]} for row in sorted(rows, key=order)],
        }
        for (a, b, stage), rows in found.items()
    ]


def _pair(comparison: dict, a: str, b: str) -> dict:
    def own(key: str) -> list[dict]:
        return [entry for entry in comparison[key] if (entry["a"], entry["b"]) == (a, b)]

    rows = own("comparisons")
    stages = dict.fromkeys(row["stage"] for row in rows)
    return {
        "a": a,
        "b": b,
        "differences": [
            entry | {"values": difference_values(entry), "where": ", ".join(map(stage_name, entry["stages"]))}
            for entry in own("differences")
        ],
        "stages": [_stage(stage, [row for row in rows if row["stage"] == stage]) for stage in stages],
        "not_compared": [entry | {"stage": stage_name(entry["stage"] or "")} for entry in own("not_compared")],
    }


def _stage(stage: str, rows: list[dict]) -> dict:
    shown = {"comparisons": rows, "stages": {}}
    whole = forests(shown, whole=True)
    return {"name": stage_name(stage), "forests": whole, "task_forests": forests(shown, whole=False)}


def overlaid_figures(stage: str, runs: dict[str, dict]) -> list[dict]:
    """A stage's training curves, a line per run: the charts of a single run, with their first key.

    Args:
        runs: name of the run -> logged key -> points.
    """
    drawn = []
    for chart in CHARTS:
        key, label = chart.lines[0]
        lines = [
            Series(run, [(step, value) for step, value in logged[key]], tone % TONES)
            for tone, (run, logged) in enumerate(runs.items())
            if logged.get(key) and chart.unless not in logged
        ]
        if len(lines) < 2:
            continue
        title = f"{stage_name(stage)}: {chart.title}, {label}"
        labels = {"x_label": "step", "y_label": chart.y_label}
        svg = line_chart(lines, title=f"{title}. {chart.caption}", log=chart.log, **labels)
        drawn.append(figure(title, chart.caption, svg, series_rows(lines, **labels)))
    return drawn
