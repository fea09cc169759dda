"""The report's main numbers as plain text."""

from alignment import text
from alignment.report.first_screen.next_steps import next_steps
from alignment.report.first_screen.smoke import WARNING, smoke_text
from alignment.report.labels import stage_name
from alignment.report.tables import suite_table, verdicts

NOTE = "±: one standard error; [ ] below: 95% interval of a difference, paired by item; accuracies in per cent"
FURTHER = "Further evaluations: suites that the pipeline's own evaluations do not include"


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
    """The suite table and each stage's differences, then those of further suites; without any, the stages' names."""
    parts = [_scores(report, further) for further in (False, True)]
    own, further = ("\n".join(lines) for lines in parts)
    if not own and not further:
        return f"{report['name']}: {', '.join(map(stage_name, report['stages']))}; no evaluations yet"
    return "\n\n".join([*([own] if own else []), *([f"{FURTHER}\n\n{further}"] if further else [])])


def _scores(report: dict, further: bool) -> list[str]:
    """The lines of a suite table and of each stage's differences."""
    table = suite_table(report, further)
    if not table["rows"]:
        return []
    header = ["stage", *map(_column, table["columns"])]
    rows = [[row["name"], *(_cell(cell) for cell in row["cells"])] for row in table["rows"]]
    lines = [text.table(header, rows, right=range(1, len(header)))]
    if not further:
        lines.append(NOTE)
    for sentence in verdicts(report, further):
        lines += ["", sentence["title"], *(f"  {item['text']} {item['verdict']}" for item in sentence["items"])]
    return lines


def _column(column: dict) -> str:
    suite = f"{column['suite']}: " if column["suite_named"] else ""
    return f"{suite}{column['name']} ({column['format']})"


def _cell(cell: dict | None) -> str:
    if cell is None:
        return "\N{EN DASH}"
    return cell["value"] + (f" ± {cell['se']}" if cell["se"] else "")
