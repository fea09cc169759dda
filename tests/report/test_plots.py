import re
import xml.etree.ElementTree as ElementTree

import pytest

from alignment.report.charts.diagram import pipeline_svg
from alignment.report.charts.plots import (
    Estimate,
    Mark,
    Panel,
    Series,
    bar_chart,
    dot_chart,
    line_chart,
    panel_chart,
    scatter,
)
from alignment.report.charts.scales import Scale, log_ticks, nice_ticks, spread
from alignment.report.labels import count, duration, number, p_text

WORDS = {"title": "a & <b>", "x_label": "x < 1", "y_label": "y"}
PANELS = {"title": "a & <b>", "x_label": "x < 1"}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 17), (0.001, 0.0042), (1e6, 9e6)])
def test_ticks_are_round_and_inside(low, high):
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 7
    assert low <= ticks[0] and ticks[-1] <= high
    assert all(float(f"{tick:.3g}") == pytest.approx(tick) for tick in ticks)


def test_log_ticks_thin_out_over_many_powers():
    assert log_ticks(0.9, 6) == [1, 2, 3, 5]
    assert log_ticks(0.009, 1100) == pytest.approx([0.01, 0.1, 1, 10, 100, 1000])


def test_scale_maps_ends_and_middle():
    assert [Scale(0, 10, 100, 200)(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert Scale(1, 100, 0, 2, log=True)(10) == pytest.approx(1)


@pytest.mark.parametrize(
    "svg",
    [
        line_chart([Series("a <i>", [(0, 1.0), (1, 100.0)]), Series("b", [(0, 2.0)], 1)], **WORDS, log=True),
        line_chart([Series("one point", [(3, 0.0)])], **WORDS),
        bar_chart([Estimate("a & b", 0.5, 0.4, 0.6), Estimate("zero", 0.0)], **WORDS),
        dot_chart([Estimate("a", 0.5, -2.0, 2.0, note="<x>")], title="t", x_label="x", low=-1, high=1),
        scatter(
            [(Estimate("a", 1.0, 0.5, 1.5), Estimate("a", -0.1)), (Estimate("b", 0.0), Estimate("b", 0.0))], **WORDS
        ),
        pipeline_svg({"a<b": {"method": "x & y", "seconds": None}}),
        panel_chart(
            [Panel("a <i>", (Series("a", [(0, 1.0), (1, 2.0)]),)), Panel("b", (Series("", [(0, -0.1)]),))], **PANELS
        ),
        panel_chart([Panel("one point", dots=(Series("", [(3, 0.0)], 1, (None,)),), mark=Mark(3, 3, 3))], **PANELS),
    ],
    ids=["log lines", "one point", "bars", "dots", "scatter", "diagram", "panels", "one panel"],
)
def test_charts_are_well_formed_and_named(svg):
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert root.find("title").text
    assert "nan" not in svg


def test_line_runs_from_lower_left_to_upper_right():
    svg = line_chart([Series("a", [(0, 0.0), (10, 5.0)])], **WORDS)
    points = ElementTree.fromstring(svg).find("polyline").attrib["points"].split()
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points)
    assert x1 < x2 and y1 > y2


def test_panels_share_the_x_axis_and_have_separate_y_axes():
    small, large = ([(0, 0.0), (5, size), (10, 0.0)] for size in (0.01, 100.0))
    panels = [Panel("a", (Series("a", small),)), Panel("b", (Series("b", large, 1),))]
    chart = ElementTree.fromstring(panel_chart(panels, **PANELS))
    upper, lower = (
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in chart.findall("polyline")
    )
    assert [x for x, _ in upper] == [x for x, _ in lower]
    assert max(y for _, y in upper) < min(y for _, y in lower)
    heights = [ys[0] - ys[1] for ys in ([y for _, y in line] for line in (upper, lower))]
    assert heights[0] == pytest.approx(heights[1]) and heights[0] > 40
    dots = panel_chart([Panel("a", dots=(Series("a", small),))], **PANELS)
    assert not ElementTree.fromstring(dots).findall("polyline")


def test_a_mark_is_drawn_within_its_band_and_dots_have_intervals():
    dots = Series("a", [(0, 0.0), (4, 1.0), (10, 2.0)], half_widths=(None, 0.5, 3.0))
    chart = ElementTree.fromstring(panel_chart([Panel("a", dots=(dots,), mark=Mark(4, 0, 10))], **PANELS))
    first, middle, last = (float(dot.attrib["cx"]) for dot in chart.findall("circle"))
    (line,), (band,) = chart.findall("line[@class='peak']"), chart.findall("rect[@class='band']")
    assert float(line.attrib["x1"]) == middle
    assert (float(band.attrib["x"]), float(band.attrib["width"])) == pytest.approx((first, last - first), abs=0.11)
    small, large = chart.findall("line[@class='range t0']")
    lengths = [float(one.attrib["y1"]) - float(one.attrib["y2"]) for one in (small, large)]
    middles = [(float(one.attrib["y1"]) + float(one.attrib["y2"])) / 2 for one in (small, large)]
    assert middles == pytest.approx([float(dot.attrib["cy"]) for dot in chart.findall("circle")[1:]], abs=0.11)
    assert lengths[1] == pytest.approx(6 * lengths[0], rel=0.02)
    height = float(chart.attrib["height"])
    assert all(0 < float(one.attrib[y]) < height for one in (small, large) for y in ("y1", "y2"))


def test_an_axis_without_padding_ends_with_its_values():
    assert [spread([0.5, 1.0], 0, 1, pad=0)(x) for x in (0.5, 1.0)] == [0, 1]
    assert spread([3.0], 0, 1, pad=0)(3.0) == 0.5


def test_diagram_draws_an_arrow_from_each_parent():
    stages = {"sft": {}, "reward": {"parents": {"model": "sft"}}, "ppo": {"parent": "sft", "parents": {"r": "reward"}}}
    assert pipeline_svg(stages).count('class="edge"') == 3
    assert pipeline_svg({"sft": {"parent": "org/model"}}).count('class="edge"') == 0


def test_number_formats():
    assert [duration(600), duration(None)] == ["10 min 00 s", "\N{EN DASH}"]
    assert [count(4_812_345), count(None)] == ["4.81M", "\N{EN DASH}"]
    assert [number(-0.01, 1), number(-0.01, 1, sign=True)] == ["0.0", "+0.0"]
    assert [number(-1.25, 1), number(float("nan")), number(0.5, 2, sign=True)] == [
        "\N{MINUS SIGN}1.2",
        "\N{EN DASH}",
        "+0.50",
    ]
    assert [p_text(0.0004), p_text(0.04), p_text(None)] == ["< 0.001", "0.040", "\N{EN DASH}"]


def test_long_labels_of_a_dot_chart_end_before_the_axis():
    rows = [Estimate("a stage with a long name", 0.5, 0.4, 0.6)]
    svg = dot_chart(rows, title="scores", x_label="score", low=0, high=1)
    assert float(re.search(r'class="grid zero" x1="([\d.]+)"', svg)[1]) > 6 * len(rows[0].label)
