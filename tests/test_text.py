"""Numbers, durations, sizes and tables as printed text, and suggestions for misspelt names."""

import pytest

from alignment.errors import did_you_mean, nearest, suggestion
from alignment.text import (
    decimal,
    duration,
    gigabytes,
    markdown_table,
    percent,
    rough_duration,
    short_number,
    size_text,
    table,
    with_unit,
)


@pytest.mark.parametrize(
    ("seconds", "measured", "predicted"),
    [
        (1.26, "1.3 s", "1 s"),
        (9.96, "10 s", "10 s"),
        (59.6, "1 min 00 s", "60 s"),
        (65, "1 min 05 s", "65 s"),
        (187, "3 min 07 s", "3.1 min"),
        (3599.6, "1 h 00 min", "60 min"),
        (7830, "2 h 10 min", "2.2 h"),
        (3 * 86400, "72 h 00 min", "3 days"),
    ],
)
def test_durations(seconds, measured, predicted):
    assert (duration(seconds), rough_duration(seconds)) == (measured, predicted)


@pytest.mark.parametrize(
    ("value", "count", "size"),
    [
        (0, "0", "0 B"),
        (950, "950", "950 B"),
        (9_999, "9,999", "10 kB"),
        (12_345, "12.3k", "12.3 kB"),
        (999_999, "1M", "1 MB"),
        (124_439_808, "124M", "124 MB"),
        (2.7e9, "2.7B", "2.7 GB"),
        (1e13, "10T", "10 TB"),
    ],
)
def test_counts_are_in_thousands_millions_and_billions_and_sizes_in_bytes(value, count, size):
    assert (short_number(value), size_text(value)) == (count, size)


def test_numbers():
    assert [decimal(-0.01, 1), decimal(-0.01, 1, sign=True), decimal(0.12345, 4)] == ["0.0", "+0.0", "0.1235"]
    assert [decimal(None), decimal(float("nan")), percent(None, missing=""), percent(0.2514)] == ["-", "-", "", "25.1%"]
    assert [gigabytes(24e9), gigabytes(5e7), with_unit(2.4832e8, "FLOP")] == ["24.0", "0.05", "248 MFLOP"]


def test_columns_of_numbers_are_aligned_to_the_right_and_indents_stay():
    rows = [["sft", "+0.1200", 7], ["  tiny plain", "-", 12]]
    assert table(["suite", "value", "n"], rows, rule=True).split("\n") == [
        "suite           value   n",
        "-" * 25,
        "sft           +0.1200   7",
        "  tiny plain        -  12",
    ]
    assert table(["a", "b"], [["x y", "1 ± 2"]], right=[1]) == "a        b\nx y  1 ± 2"


def test_a_table_without_rows_is_its_header():
    assert table(["a", "b"], [], rule=True) == "a  b\n----"


def test_markdown_tables():
    assert (
        markdown_table(["task", "n"], [["add", 7]], right=[1]) == "| task   |   n |\n|:-------|----:|\n| add    |   7 |"
    )


def test_the_nearest_name_is_suggested():
    stages = ["sft", "dpo", "pretrain"]
    assert did_you_mean("pretain", stages) == "did you mean 'pretrain'?"
    assert did_you_mean("zebra", stages) is None
    assert did_you_mean("zebra", stages, "see the docs") == "see the docs"
    assert suggestion("zebra", stages) == "valid: sft, dpo, pretrain"
    assert nearest("a.yml", ["a.yaml", "b.yaml"], count=2) == ["a.yaml", "b.yaml"]
    assert nearest(7, ["x7"], cutoff=0.9) == []
