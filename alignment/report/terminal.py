"""The report's main numbers as plain text."""

from alignment.report.labels import stage_name
from alignment.report.tables import suite_table, verdicts


def summary(report: dict) -> str:
    """The suite table and each stage's differences; without evaluations, the names of the stages."""
    table = suite_table(report)
    if not table["rows"]:
        return f"{report['name']}: {', '.join(map(stage_name, report['stages']))}; no evaluations yet"
    header = ["stage", *(f"{column['name']} ({column['format']})" for column in table["columns"])]
    rows = [[row["name"], *(_cell(cell) for cell in row["cells"])] for row in table["rows"]]
    lines = []
    for sentence in verdicts(report):
        lines += ["", sentence["title"], *(f"  {item['text']} {item['verdict']}" for item in sentence["items"])]
    return "\n".join([_columns([header, *rows]), *lines])


def _cell(cell: dict | None) -> str:
    if cell is None:
        return "\N{EN DASH}"
    return cell["value"] + (f" ± {cell['se']}" if cell["se"] else "")


def _columns(rows: list[list[str]]) -> str:
    """Columns with names left-aligned and numbers right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )
