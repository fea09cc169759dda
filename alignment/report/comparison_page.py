"""Renders a comparison of `align compare` as a self-contained HTML page."""

from alignment.report.labels import stage_name
from alignment.report.render import page_style, template_environment
from alignment.report.tables import forests, is_whole
from eval.comparison.table import endpoint_lines, gate_lines


def render_comparison(comparison: dict) -> str:
    """Render {comparisons: rows of eval.comparison.compare, skipped, gates, flips} as a page without external files."""
    rows = [row | {"headline": row["aggregate"] or is_whole(row)} for row in comparison["comparisons"]]
    rows = _with_distinct_tasks(rows)
    tasks = [row for row in rows if not row["headline"]]
    pairs = dict.fromkeys((row["a"], row["b"]) for row in rows)
    content = {
        "style": page_style(),
        "title": ", ".join(f"{stage_name(b)} against {stage_name(a)}" for a, b in pairs),
        "forests": forests({"comparisons": rows, "stages": {}}, whole=True),
        "task_forests": forests({"comparisons": tasks, "stages": {}}, whole=False),
        "endpoints": endpoint_lines(rows),
        "skipped": comparison["skipped"],
        "gates": gate_lines(comparison["gates"]),
        "flips": comparison["flips"],
    }
    return template_environment().get_template("comparison.html.jinja").render(content)


def _with_distinct_tasks(rows: list[dict]) -> list[dict]:
    """The rows, with the suite before a task's name if several suites have a task with that name."""
    suites: dict[str, set[str]] = {}
    for row in rows:
        suites.setdefault(row["task"], set()).add(row["suite"])
    return [row | {"task": f"{row['suite']}: {row['task']}"} if len(suites[row["task"]]) > 1 else row for row in rows]
