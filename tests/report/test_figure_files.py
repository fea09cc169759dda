"""Figures that the page saves: the picture as SVG, its numbers as CSV, without a network."""

import base64
import csv
import io
import re
from html import unescape
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from alignment.report.charts.figure_files import (
    csv_uri,
    estimate_rows,
    file_name,
    pair_rows,
    panel_rows,
    series_rows,
    svg_uri,
)
from alignment.report.charts.plots import Estimate, Panel, Series, line_chart
from alignment.report.content import collect
from alignment.report.render import render


@pytest.fixture(scope="module")
def page(small_run):
    report = collect(small_run)
    return report, render(report)


def saved(html: str) -> dict[str, str]:
    """File name -> data URI of every link that saves."""
    links = re.findall(r'<a href="([^"]+)" download="([^"]+)" aria-label="([^"]+)">', html)
    assert all(label.split()[0].lower() == name.rpartition(".")[2] for _, name, label in links)
    return {name: unescape(uri) for uri, name, _ in links}


def decoded_csv(uri: str) -> list[list[str]]:
    assert uri.startswith("data:text/csv;charset=utf-8,")
    return list(csv.reader(io.StringIO(unquote(uri.partition(",")[2]))))


def test_every_figure_has_both_files(page):
    _, html = page
    files = saved(html)
    figures = re.findall(r"<figure>\s*<h4>(.*?)</h4>", html)
    assert len(figures) > 10
    for title in ["Pipeline", *map(unescape, figures)]:
        assert {f"{file_name(title)}.svg", f"{file_name(title)}.csv"} <= files.keys(), title
    for name, uri in files.items():
        if name.endswith(".svg"):
            root = ElementTree.fromstring(base64.b64decode(uri.partition(",")[2]))
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert "--t0:" in root.find("{http://www.w3.org/2000/svg}style").text
        else:
            rows = decoded_csv(uri)
            assert len(rows) > 1 and len({len(row) for row in rows}) == 1, name


def test_the_csv_has_the_numbers_of_the_picture(page):
    report, html = page
    rows = decoded_csv(saved(html)["ppo-reward.csv"])
    assert rows[0] == ["series", "step", "reward", "half_interval"]
    assert [[int(row[1]), float(row[2])] for row in rows[1:]] == report["curves"]["ppo"]["reward"]


def test_texts_with_commas_quotes_and_markup_survive():
    rows = [["a,b", 'say "x"'], ["<td>&", "line\nend"], ["100%", "\N{MINUS SIGN}1"]]
    uri = csv_uri(rows)
    assert not set('"<>\n') & set(uri)
    assert decoded_csv(uri) == rows


def test_rows_of_each_kind_of_chart():
    series = Series("a", [(1, 2.0), (2, 3.0)], 0, (0.5, None))
    assert series_rows([series], "x", "y") == [
        ["series", "x", "y", "half_interval"], ["a", 1, 2.0, 0.5], ["a", 2, 3.0, None],
    ]  # fmt: skip
    assert panel_rows([Panel("p", (series,))], "x")[1:] == [["p", "a", 1, 2.0, 0.5], ["p", "a", 2, 3.0, None]]
    one = Estimate("sft", 1.0, 0.5, 1.5)
    assert estimate_rows([one], "stage", "score") == [["stage", "score", "low", "high"], ["sft", 1.0, 0.5, 1.5]]
    assert pair_rows([(one, Estimate("sft", 2.0))], "x", "y")[1] == ["sft", 1.0, 0.5, 1.5, 2.0, None, None]


def test_a_saved_picture_is_that_of_the_page():
    svg = line_chart([Series("a", [(0, 1), (1, 2)])], title="t", x_label="x", y_label="y")
    saved_svg = base64.b64decode(svg_uri(svg).partition(",")[2]).decode()
    assert svg.partition("</title>")[2] in saved_svg
    assert 'xmlns="http://www.w3.org/2000/svg"' in saved_svg
