"""The report's main numbers as plain text."""

from alignment import text
from alignment.report.first_screen.next_steps import next_steps
from alignment.report.first_screen.smoke import WARNING, smoke_text
from alignment.report.labels import stage_name
from alignment.report.tables import suite_table, verdicts


def summary(report: dict) -> str:
    """The main numbers, after a warning if they mean nothing, with what to do next."""
    smoke = smoke_text(report)
    warning = f"{WARNING.upper()}. {smoke}\n\n" if smoke else ""
    steps = next_steps(report)
    width = max((len(step["what"]) for step in steps), default=0)
    unreadable = [f"unreadable: {entry['file']} {entry['reason']}" for entry in report.get("unreadable", [])]
    following = [f"  {step['what']:{width}}  {step['command']}" for step in steps]
    parts = [figures(report), *([""] if unreadable else []), *unreadable]
    return warning + "\n".join([*parts, *(["", "What to do next", *following] if steps else [])])


def figures(report: dict) -> str:
    """The suite table and each stage's differences; without evaluations, the names of the stages."""
    table = suite_table(report)
    if not table["rows"]:
        return f"{report['name']}: {', '.join(map(stage_name, report['stages']))}; no evaluations yet"
    header = ["stage", *(f"{column['name']} ({column['format']})" for column in table["columns"])]
    rows = [[row["name"], *(_cell(cell) for cell in row["cells"])] for row in table["rows"]]
    lines = []
    for sentence in verdicts(report):
        lines += ["", sentence["title"], *(f"  {item['text']} {item['verdict']}" for item in sentence["items"])]
    return "\n".join([text.table(header, rows, right=range(1, len(header))), *lines])


def _cell(cell: dict | None) -> str:
    if cell is None:
        return "\N{EN DASH}"
    return cell["value"] + (f" ± {cell['se']}" if cell["se"] else "")
