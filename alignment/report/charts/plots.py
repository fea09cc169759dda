"""Charts as small inline SVG, coloured by the page's CSS classes, so that light mode, dark mode and print work.

Every function takes plain numbers and returns an SVG string whose text is escaped.
"""

import math
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from alignment.report.charts.scales import Scale, nice_ticks, short, spread

STYLE = Path(__file__).parents[1] / "templates" / "charts.css"
WIDTH, HEIGHT = 368, 220
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 12, 38
PANEL = 106  # height of a panel, including its label
LETTER = 6.4  # width of a letter in a label, about
PARETO_HEIGHT = 300
RING, LINE = 8, 13  # radius of a ring, height of a line of text
FEW = 40  # more dots than this are drawn faint


@dataclass(frozen=True)
class Series:
    """One line or one set of points.

    Attributes:
        label: name in the legend.
        points: (x, y) pairs.
        tone: number of a colour in the style sheet, or `ink`.
        half_widths: half the interval about each point, None if unknown; empty for no intervals.
        limits: the least and the greatest possible y, at which intervals are cut.
    """

    label: str
    points: list[tuple[float, float]]
    tone: int | str = 0
    half_widths: tuple[float | None, ...] = ()
    limits: tuple[float, float] = (-math.inf, math.inf)

    @property
    def intervals(self) -> list[tuple[float, float, float]]:
        """(x, low, high) of the points whose interval is known."""
        low, high = self.limits
        return [
            (x, max(low, y - half), min(high, y + half))
            for (x, y), half in zip(self.points, self.half_widths, strict=False)
            if half is not None
        ]

    @property
    def ends(self) -> list[float]:
        """y of all points and of the ends of their intervals."""
        return [y for _, y in self.points] + [end for _, *ends in self.intervals for end in ends]


@dataclass(frozen=True)
class Mark:
    """A place on the x axis, drawn as a vertical line in the band of its interval."""

    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One of several charts over a common x axis: dots, lines over them, and a marked place."""

    label: str
    lines: tuple[Series, ...] = ()
    dots: tuple[Series, ...] = ()
    mark: Mark | None = None

    @property
    def series(self) -> tuple[Series, ...]:
        return self.lines + self.dots


@dataclass(frozen=True)
class Estimate:
    """One value with its interval; `tone` is a colour number or a verdict word."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    tone: int | str = 0
    note: str = ""


def standalone(chart: str) -> str:
    """A chart as a standalone SVG file, with its namespace and the page's colours."""
    style = escape(" ".join(STYLE.read_text(encoding="utf-8").split()) + " svg { background: var(--page); }")
    named = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return named.replace("</title>", f"</title><style>{style}</style>", 1)


def line_chart(series: list[Series], *, title: str, x_label: str, y_label: str, log: bool = False) -> str:
    """Lines over a common axis, with a legend for more than one line."""
    series = [line for line in series if line.points]
    top = TOP + (18 if len(series) > 1 else 0)
    xs = [x for line in series for x, _ in line.points]
    ys = [end for line in series for end in line.ends]
    x_scale = spread(xs, LEFT, WIDTH - RIGHT, pad=0 if max(xs) > min(xs) else 0.5)
    y_scale = spread(ys, HEIGHT - BOTTOM, top, log=log)
    parts = [_axes(x_scale, y_scale, x_label, y_label, top)]
    for line in series:
        parts.append(_line(line, x_scale, y_scale))
        if len(line.points) <= 12:
            parts.append(_dots(line, x_scale, y_scale))
    if len(series) > 1:
        parts.append(_legend(series))
    return _svg(parts, title)


def panel_chart(panels: list[Panel], *, title: str, x_label: str) -> str:
    """Panels one above the other over a common x axis, each with its own y axis."""
    xs = [x for panel in panels for curve in panel.series for x, _ in curve.points]
    dotted = any(panel.dots for panel in panels)
    x_scale = spread(xs, LEFT, WIDTH - RIGHT, pad=0.05 if dotted or max(xs) == min(xs) else 0)
    parts = []
    for index, panel in enumerate(panels):
        top, bottom = PANEL * index + 22, PANEL * (index + 1)
        ends = [end for curve in panel.series for end in curve.ends]
        y_scale = replace(spread(ends, bottom, top, pad=0.1), count=4)
        if panel.mark:
            parts.append(_mark(panel.mark, x_scale, top, bottom))
        parts.append(f'<text class="name" x="{LEFT}" y="{top - 7}">{escape(panel.label)}</text>')
        parts.append(_grid(y_scale, top))
        parts += [_dots(dots, x_scale, y_scale) for dots in panel.dots]
        parts += [_line(line, x_scale, y_scale) for line in panel.lines]
    parts += [_x_ticks(x_scale, bottom), _axis_labels(x_label, "", TOP, bottom)]
    return _svg(parts, title, height=bottom + BOTTOM)


def bar_chart(bars: list[Estimate], *, title: str, x_label: str, y_label: str, top: float | None = None) -> str:
    """Vertical bars from zero with optional intervals; `note` is printed above each bar."""
    ends = [value for bar in bars for value in (bar.value, bar.low, bar.high) if value is not None]
    y_scale = Scale(min(0.0, *ends), top or max(*ends, 0.0) * 1.15 or 1.0, HEIGHT - BOTTOM, TOP)
    slot = (WIDTH - LEFT - RIGHT) / len(bars)
    parts = [_grid(y_scale, TOP), _axis_labels(x_label, y_label, TOP)]
    every = math.ceil(len(bars) / 10)
    for index, bar in enumerate(bars):
        middle, width = LEFT + slot * (index + 0.5), min(slot * 0.72, 64)
        y, zero = y_scale(bar.value), y_scale(0.0)
        parts.append(
            f'<rect class="bar t{bar.tone}" x="{middle - width / 2:.1f}" y="{min(y, zero):.1f}" '
            f'width="{width:.1f}" height="{abs(zero - y):.1f}"/>'
        )
        if bar.low is not None and bar.high is not None:
            parts.append(_whisker(middle, y_scale(bar.low), y_scale(bar.high)))
        if bar.note:
            above = min(y, y_scale(bar.high) if bar.high is not None else y) - 5
            parts.append(
                f'<text class="note" x="{middle:.1f}" y="{above:.1f}" text-anchor="middle">{escape(bar.note)}</text>'
            )
        if index % every == 0:
            parts.append(
                f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(bar.label)}</text>'
            )
    return _svg(parts, title)


def dot_chart(rows: list[Estimate], *, title: str, x_label: str, low: float, high: float) -> str:
    """One row per estimate: a dot with its interval on a common axis, the label left and the note right."""
    left, right, row_height = max(62.0, LETTER * max(len(row.label) for row in rows) + 8), 118, 26
    bottom = TOP + row_height * len(rows)
    scale = Scale(low, high, left, WIDTH - right)
    parts = []
    for tick in scale.ticks:
        parts.append(
            f'<line class="grid{" zero" if tick == 0 else ""}" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" '
            f'y1="{TOP}" y2="{bottom}"/>'
        )
        parts.append(f'<text x="{scale(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{short(tick)}</text>')
    for index, row in enumerate(rows):
        y = TOP + row_height * (index + 0.5)
        parts.append(f'<text class="name" x="0" y="{y + 4:.1f}">{escape(row.label)}</text>')
        parts.append(_interval(row, scale, y))
        parts.append(f'<text class="note" x="{WIDTH}" y="{y + 4:.1f}" text-anchor="end">{escape(row.note)}</text>')
    centre = (left + WIDTH - right) / 2
    parts.append(f'<text class="label" x="{centre}" y="{bottom + 32}" text-anchor="middle">{escape(x_label)}</text>')
    return _svg(parts, title, height=bottom + 38)


def scatter(points: list[tuple[Estimate, Estimate]], *, title: str, x_label: str, y_label: str) -> str:
    """Points with intervals on both axes, a legend, and lines through zero; points of one colour have their names."""

    def ends(side: int) -> list[float]:
        values = [getattr(pair[side], name) for pair in points for name in ("value", "low", "high")]
        return [0.0, *(value for value in values if value is not None)]

    top = TOP + 18
    x_scale = spread(ends(0), LEFT, WIDTH - RIGHT, pad=0.12)
    y_scale = spread(ends(1), HEIGHT - BOTTOM, top, pad=0.15)
    parts = [_axes(x_scale, y_scale, x_label, y_label, top)]
    parts.append(
        f'<line class="grid zero" x1="{x_scale(0):.1f}" x2="{x_scale(0):.1f}" y1="{top}" y2="{HEIGHT - BOTTOM}"/>'
    )
    for x, y in points:
        if y.low is not None and y.high is not None:
            parts.append(_whisker(x_scale(x.value), y_scale(y.low), y_scale(y.high), f"t{x.tone}"))
        parts.append(_interval(x, x_scale, y_scale(y.value)))
    tones = [x.tone for x, _ in points]
    if len(set(tones)) == len(tones):
        parts.append(_legend([Series(x.label, [], x.tone) for x, _ in points]))
    else:
        parts += [_point_name(x.label, x_scale(x.value), y_scale(y.value)) for x, y in points]
    return _svg(parts, title)


def pareto_chart(
    points: list[tuple[Estimate, Estimate]], best: list[bool], *, title: str, x_label: str, y_label: str
) -> str:
    """Points with intervals on both axes and their names, joined in order by a thin line; rings about the best."""

    def scale(side: int, start: float, end: float) -> Scale:
        values = [getattr(pair[side], name) for pair in points for name in ("value", "low", "high")]
        return spread([value for value in values if value is not None], start, end, pad=0.12)

    bottom = PARETO_HEIGHT - BOTTOM
    x_scale, y_scale = scale(0, LEFT, WIDTH - RIGHT), scale(1, bottom, TOP)
    places = [(x_scale(x.value), y_scale(y.value)) for x, y in points]
    route = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [_grid(y_scale, TOP), _x_ticks(x_scale, bottom), _axis_labels(x_label, y_label, TOP, bottom)]
    parts.append(f'<polyline class="route" points="{route}"/>')
    for (x, y), (across, down), ringed in zip(points, places, best, strict=True):
        if y.low is not None and y.high is not None:
            parts.append(_whisker(across, y_scale(y.low), y_scale(y.high), f"t{x.tone}"))
        parts.append(_interval(x, x_scale, down))
        if ringed:
            parts.append(f'<circle class="ring" cx="{across:.1f}" cy="{down:.1f}" r="{RING}"/>')
    parts += _names([x.label for x, _ in points], places)
    return _svg(parts, title, height=PARETO_HEIGHT)


def _names(labels: list[str], places: list[tuple[float, float]]) -> list[str]:
    """The names of ringed points, each where it covers neither a point nor another name, as far as there is room."""
    taken = [(x - RING, y - RING, x + RING, y + RING) for x, y in places]
    parts = []
    for label, (x, y) in zip(labels, places, strict=True):
        width = LETTER * len(label)
        spots = [(x + side * (RING + 3), y + down, side) for side in (1, -1) for down in (-7, 16)]
        spots += [(x + RING + 3, y + 16 + LINE * number, 1) for number in range(1, len(labels))]
        boxes = [(at - width * (side < 0), line - 10, at + width * (side > 0), line + 3) for at, line, side in spots]
        free = [
            number
            for number, (left, top, right, bottom) in enumerate(boxes)
            if left >= LEFT
            and right <= WIDTH
            and not any(left < end and start < right and top < low and high < bottom for start, high, end, low in taken)
        ]
        chosen = free[0] if free else 0
        at, line, side = spots[chosen]
        taken.append(boxes[chosen])
        anchor = "start" if side > 0 else "end"
        parts.append(
            f'<text class="name over" x="{at:.1f}" y="{line:.1f}" text-anchor="{anchor}">{escape(label)}</text>'
        )
    return parts


def _point_name(label: str, x: float, y: float) -> str:
    """A point's label to its upper right, or to its upper left near the right edge."""
    fits = x + 8 + LETTER * len(label) <= WIDTH
    place = f'x="{x + 8:.1f}"' if fits else f'x="{x - 8:.1f}" text-anchor="end"'
    return f'<text class="name" {place} y="{y - 7:.1f}">{escape(label)}</text>'


def forest_row(row: Estimate, scale: Scale, null: float | None = 0.0, height: int = 22) -> str:
    """The picture of an estimate for a table cell: interval, dot, and a line at the null value."""
    line = []
    if null is not None and scale.low <= null <= scale.high:
        x = scale(null)
        line = [f'<line class="grid zero" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>']
    picture = [*line, _interval(row, scale, height / 2)]
    return _svg(picture, row.label, width=round(scale.end + scale.start), height=height)


def forest_axis(scale: Scale) -> str:
    """The axis under a column of `forest_row` pictures."""
    ticks = nice_ticks(scale.low, scale.high, 4)
    parts = [f'<text x="{scale(tick):.1f}" y="12" text-anchor="middle">{short(tick)}</text>' for tick in ticks]
    return _svg(parts, "axis", width=round(scale.end + scale.start), height=16)


def _line(series: Series, x_scale: Scale, y_scale: Scale) -> str:
    pixels = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in series.points)
    return f'<polyline class="line t{series.tone}" points="{pixels}"/>'


def _dots(series: Series, x_scale: Scale, y_scale: Scale) -> str:
    parts = [_whisker(x_scale(x), y_scale(low), y_scale(high), f"t{series.tone}") for x, low, high in series.intervals]
    faint = " faint" if len(series.points) > FEW else ""
    parts += [
        f'<circle class="dot t{series.tone}{faint}" cx="{x_scale(x):.1f}" cy="{y_scale(y):.1f}" r="2.5"/>'
        for x, y in series.points
    ]
    return "".join(parts)


def _mark(mark: Mark, x_scale: Scale, top: float, bottom: float) -> str:
    at, low, high = (x_scale(x) for x in (mark.at, mark.low, mark.high))
    return (
        f'<rect class="band" x="{low:.1f}" y="{top}" width="{max(high - low, 1):.1f}" height="{bottom - top}"/>'
        f'<line class="peak" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>'
    )


def _interval(row: Estimate, scale: Scale, y: float) -> str:
    dot = f'<circle class="dot t{row.tone}" cx="{scale(row.value):.1f}" cy="{y:.1f}" r="4"/>'
    if row.low is None or row.high is None:
        return dot
    low, high = max(row.low, scale.low), min(row.high, scale.high)
    return (
        f'<line class="range t{row.tone}" x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>{dot}'
    )


def _whisker(x: float, low: float, high: float, tone: str = "ink") -> str:
    return f'<line class="range {tone}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'


def _grid(y_scale: Scale, top: float) -> str:
    parts = []
    for tick in y_scale.ticks:
        y = y_scale(tick)
        zero = " zero" if tick == 0 else ""
        parts.append(f'<line class="grid{zero}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    return "".join(parts)


def _axes(x_scale: Scale, y_scale: Scale, x_label: str, y_label: str, top: float) -> str:
    return _grid(y_scale, top) + _x_ticks(x_scale) + _axis_labels(x_label, y_label, top)


def _x_ticks(x_scale: Scale, bottom: float = HEIGHT - BOTTOM) -> str:
    return "".join(
        f'<text x="{x_scale(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{short(tick)}</text>'
        for tick in x_scale.ticks
    )


def _axis_labels(x_label: str, y_label: str, top: float, bottom: float = HEIGHT - BOTTOM) -> str:
    centre, middle = (LEFT + WIDTH - RIGHT) / 2, (top + bottom) / 2
    return (
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="label" x="{centre}" y="{bottom + BOTTOM - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="label" x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">'
        f"{escape(y_label)}</text>"
    )


def _legend(series: list[Series]) -> str:
    parts, x = [], float(LEFT)
    for entry in series:
        parts.append(f'<line class="line t{entry.tone}" x1="{x:.0f}" x2="{x + 16:.0f}" y1="12" y2="12"/>')
        parts.append(f'<text class="name" x="{x + 21:.0f}" y="16">{escape(entry.label)}</text>')
        x += 38 + LETTER * len(entry.label)
    return "".join(parts)


def _svg(parts: list[str], title: str, width: int = WIDTH, height: float = HEIGHT) -> str:
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
