"""A figure's files: its SVG and the numbers that it shows, as links that a page carries in itself."""

import base64
import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from alignment.report.charts.plots import Estimate, Panel, Series, standalone

Rows = list[list[Any]]  # of a CSV file, the header first
SAFE = ",;:/ ()[]+*'!@$=?"  # characters that need no escape in a data URI within a quoted attribute


def figure(title: str, caption: str, svg: str, rows: Rows) -> dict:
    """A figure of the page: its texts, the picture, and the rows of its CSV file."""
    return {"title": title, "caption": caption, "svg": svg, "rows": rows}


def series_rows(series: Iterable[Series], x_label: str, y_label: str) -> Rows:
    """Rows of lines and dots: the series' label, x, y, and half the 95% interval about y if it has one."""
    rows: Rows = [["series", x_label, y_label, "half_interval"]]
    for one in series:
        halves = one.half_widths or (None,) * len(one.points)
        rows += [[one.label, x, y, half] for (x, y), half in zip(one.points, halves, strict=True)]
    return rows


def panel_rows(panels: Iterable[Panel], x_label: str) -> Rows:
    """Rows of several panels, with the panel's label first."""
    rows: Rows = [["panel", "series", x_label, "value", "half_interval"]]
    for panel in panels:
        rows += [[panel.label, *row] for row in series_rows(panel.series, x_label, "value")[1:]]
    return rows


def estimate_rows(estimates: Iterable[Estimate], name: str, value: str) -> Rows:
    """Rows of estimates with their intervals."""
    return [[name, value, "low", "high"], *([one.label, one.value, one.low, one.high] for one in estimates)]


def pair_rows(pairs: Iterable[tuple[Estimate, Estimate]], x_label: str, y_label: str) -> Rows:
    """Rows of points with an interval on both axes."""
    names = [f"{axis}{end}" for axis in (x_label, y_label) for end in ("", " low", " high")]
    return [["stage", *names], *([x.label, x.value, x.low, x.high, y.value, y.low, y.high] for x, y in pairs)]


def file_name(title: str) -> str:
    """A figure's title as the stem of a file's name: `ppo-kl-to-the-reference`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "figure"


def svg_uri(svg: str) -> str:
    """A chart as a data URI of a standalone SVG file, coloured as on the page."""
    return "data:image/svg+xml;base64," + base64.b64encode(standalone(svg).encode()).decode()


def csv_uri(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a data URI of a CSV file; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return "data:text/csv;charset=utf-8," + quote(text.getvalue(), safe=SAFE)
