"""Eval figures and comparisons as text tables."""

from __future__ import annotations

from eval.store import variant_words


def eval_table(records: list[dict]) -> str:
    """A table of the figures of eval runs (records as `evaluate` returns them)."""
    rows = []
    for record in records:
        for row in record["tasks"]:
            figures = [_number(row["value"]), _number(row["se"]), row["n"]]
            rows.append([record["suite"], record["format"], row["task"], row["metric"], *figures])
    return _table(["suite", "format", "task", "metric", "value", "se", "n"], rows)


def compare_table(rows: list[dict]) -> str:
    """A table of comparison rows as `compare` returns them; what the verdicts mean stands below."""
    names = f"{rows[0]['a']} -> {rows[0]['b']}, paired by item\n" if rows else ""
    shown = []
    for row in rows:
        values = [_number(row["value_a"]), _number(row["value_b"]), _signed(row["delta"])]
        interval = f"[{_signed(row['ci_low'])}, {_signed(row['ci_high'])}]"
        found = [interval, f"{row['p_holm']:.2g}", row["verdict"], row["n"]]
        way = " ".join([row["format"], *variant_words(row["variant"])])
        shown.append([row["suite"], way, row["task"], row["metric"], *values, *found])
    header = ["suite", "format", "task", "metric", "a", "b", "b - a", "95% interval", "p", "verdict", "n"]
    note = "p: adjusted over the tasks (Holm); better or worse where p <= 0.05, else tied"
    return f"{names}{_table(header, shown)}\n{note}"


def side_table(sides: dict[str, dict]) -> str:
    """A table of the replies of the sides of a win rate, a row for each."""
    names = list(next(iter(sides.values())))
    rows = [[side.upper(), *[_number(figures[name]) for name in names]] for side, figures in sides.items()]
    return _table(["replies", *names], rows)


def frontier_table(points: list[dict], peak: dict | None) -> str:
    """A table of a frontier's points; a star marks the highest smoothed gold reward."""
    rows = [
        [
            point["step"],
            *[_number(point[name]) for name in ("kl", "distance", "proxy", "gold", "gold_smoothed")],
            "*" if peak and peak["index"] == place else "",
        ]
        for place, point in enumerate(points)
    ]
    return _table(["step", "KL", "sqrt(KL)", "proxy", "gold", "smoothed", ""], rows)


def _table(header: list[str], rows: list[list]) -> str:
    """Columns padded to their widest cell, numbers to the right."""
    cells = [header, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _is_number(text: str) -> bool:
    return text.lstrip("+-").replace(".", "").replace("e-", "").isdigit() or text == "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"
