"""Numbers, durations, sizes and tables as printed text.

Suggestions for misspelt names are in alignment/errors.py, which exported checkpoints carry: it imports no library.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

MISSING = "-"
COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def decimal(value: float | None, digits: int = 3, sign: bool = False, missing: str = MISSING) -> str:
    """A number with fixed decimals and no negative zero; `missing` for None, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return missing
    return f"{value:{'+' if sign else ''}z.{digits}f}"


def percent(share: float | None, missing: str = MISSING) -> str:
    """0.251 as `25.1%`."""
    return missing if share is None else f"{share:.1%}"


def short_number(value: float) -> str:
    """A count such as parameters or tokens: `1,234` up to ten thousand, then `12.3k`, `124M`, `7.89B`."""
    return f"{value:,.0f}" if round(value) < 10_000 else "".join(_scaled(value, COUNTS))


def with_unit(value: float, unit: str) -> str:
    """A quantity to three significant figures with an SI prefix: `with_unit(1.2e9, "FLOP")` is `1.2 GFLOP`."""
    number, prefix = _scaled(value, PREFIXES)
    return f"{number} {prefix}{unit}"


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> tuple[str, str]:
    value = float(f"{value:.3g}")
    size, name = next(((size, name) for size, name in units if value >= size), (1.0, ""))
    return f"{float(f'{value / size:.3g}'):.12g}", name


def size_text(size: int) -> str:
    """Bytes: `512 B`, `1.5 MB`, `24 GB`."""
    return with_unit(size, "B")


def gigabytes(size: float) -> str:
    """Bytes in GB, without the unit: `1.2`; two decimals below 0.1 GB."""
    return f"{size / 1e9:.1f}" if size >= 1e8 else f"{size / 1e9:.2f}"


def duration(seconds: float) -> str:
    """A measured duration: `3.2 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def rough_duration(seconds: float) -> str:
    """A predicted duration, in one or two significant figures: `42 s`, `3.1 min`, `2.2 h`, `12 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{max(1, round(seconds))} s"


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], *, right: Collection[int] | None = None, rule: bool = False
) -> str:
    """Rows in aligned columns for the terminal.

    Args:
        right: indices of the columns to align to the right; default: those that hold only numbers.
        rule: draw a line under the header.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if right is None:
        right = [i for i in range(len(header)) if cells and all(_is_number(row[i]) for row in cells)]
    # The header goes in as a row: tabulate makes columns wider than a real header by two spaces.
    lines = [line.rstrip() for line in _tabulated([list(header), *cells], right, "plain").split("\n")]
    if rule:
        lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]], right: Collection[int] = ()) -> str:
    """Rows as a Markdown table; `right` are the indices of the columns to align to the right."""
    return _tabulated([[str(cell) for cell in row] for row in rows], right, "pipe", header)


def _tabulated(cells: list[list[str]], right: Collection[int], style: str, header: Sequence[str] = ()) -> str:
    from tabulate import tabulate

    width = len(cells[0]) if cells else 0
    align = ["right" if i in right else "left" for i in range(width)]
    return tabulate(cells, header, style, disable_numparse=True, colalign=align, preserve_whitespace=True)


def _is_number(text: str) -> bool:
    return text == MISSING or text.lstrip("+-").replace(".", "").replace("e-", "").isdigit()
