"""A comparison of runs as text for the terminal."""

from alignment import text
from alignment.report.first_screen.outcomes import row_name
from alignment.report.first_screen.smoke import WARNING
from alignment.report.labels import delta_text, stage_name, value_text, variant_texts
from alignment.report.side_sections import value_of_key
from alignment.report.tables import order

NOTE = (
    "differences are paired by item, with 95% intervals over items, each of its row alone (not adjusted)\n"
    "better or worse: p at most 0.05, adjusted over the tasks of a metric (Holm), even if the interval excludes 0\n"
    "a run has one training seed: a difference between two runs does not show that a recipe is better"
)


def runs_text(comparison: dict, every_task: bool = False) -> str:
    """Per pair of runs: what differs in how they were made, the scores of each stage, and what is not compared.

    Args:
        comparison: of compared_runs.compare_runs.
        every_task: print the tied tasks too.
    """
    first, *others = comparison["runs"]
    parts = [
        f"{WARNING.upper()}: {run['name']} ({', '.join(run['smoke'])})" for run in comparison["runs"] if run["smoke"]
    ]
    for other in others:
        parts.append(_pair_text(comparison, first["name"], other["name"], every_task))
    return "\n\n".join([*parts, *([NOTE] if comparison["comparisons"] else [])])


def _pair_text(comparison: dict, a: str, b: str, every_task: bool) -> str:
    def own(key: str) -> list[dict]:
        return [entry for entry in comparison[key] if (entry["a"], entry["b"]) == (a, b)]

    blocks = [f"{b} against {a}", differences_text(own("differences"), a, b)]
    rows = own("comparisons")
    for stage in dict.fromkeys(row["stage"] for row in rows):
        blocks.append(_stage_text(stage, [row for row in rows if row["stage"] == stage], a, b, every_task))
    blocks += ["no evaluation in common"] if not rows else []
    refused = [
        f"not compared: {' '.join(filter(None, [stage_name(entry['stage'] or ''), entry['what']]))}: {entry['reason']}"
        for entry in own("not_compared")
    ]
    return "\n\n".join([*blocks, *(["\n".join(refused)] if refused else [])])


def differences_text(entries: list[dict], a: str, b: str) -> str:
    """A table of what differs in how two runs were made."""
    if not entries:
        return "made alike: seed, recipes, data, code, libraries and machine are equal"
    rows = [[entry["key"], *difference_values(entry), ", ".join(entry["stages"])] for entry in entries]
    return text.table(["what differs", a, b, "stages"], rows, right=(), rule=True)


def difference_values(entry: dict) -> list[str]:
    """Both values of a difference, as a recipe writes them."""
    return [value_of_key(value) for value in entry["values"]]


def figure_name(row: dict) -> str:
    """A row's figure in words, with the options that set its eval run apart."""
    return ", ".join([row_name(row), *variant_texts(row.get("variant") or {})])


def _stage_text(stage: str, rows: list[dict], a: str, b: str, every_task: bool) -> str:
    heads = sorted((row for row in rows if row["headline"]), key=order)
    tasks = sorted((row for row in rows if not row["headline"] and not row["aggregate"]), key=order)
    shown = tasks if every_task else [row for row in tasks if row["verdict"] in ("better", "worse")]
    cells = [
        [
            figure_name(row),
            *(value_text(row["metric"], row[key]) for key in ("value_a", "value_b")),
            *(delta_text(row), row["verdict"], row["n"]),
        ]
        for row in [*heads, *shown]
    ]
    header = [stage_name(stage), a, b, f"{b} - {a} [95% interval]", "verdict", "items"]
    table = text.table(header, cells, right=(1, 2, 5), rule=True)
    hidden = len(tasks) - len(shown)
    return f"{table}\n{hidden} further tasks are tied or unknown (--all prints them)" if hidden else table
