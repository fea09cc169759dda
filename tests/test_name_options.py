"""Options in names: `name?key=value&key=value`."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from alignment.errors import UserError
from alignment.name_options import convert, describe, read_options, scalar, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [("a", ("a", None)), ("a?", ("a", "")), ("a?b=1", ("a", "b=1")), ("a?b=http://c/?d", ("a", "b=http://c/?d"))],
)
def test_a_name_is_split_at_its_first_question_mark(name, parts):
    assert split_name(name) == parts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("7", 7),
        ("-.5", -0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("yes", "yes"),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("=", "="),
        ("<<", "<<"),
        ("[1, 2]", "[1, 2]"),
        ("{a: b", "{a: b"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = scalar(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("1e-3", float, 0.001),
        ("2", float, 2.0),
        ("2", str, "2"),
        ("", str, ""),
        ("true", bool, True),
        ("null", str | None, None),
        ("x=y", str | None, "x=y"),
        ("3", int | None, 3),
        ("text", int | str, "text"),
        ("1,2", list[int], [1, 2]),
        ("a,b", Sequence[str] | None, ["a", "b"]),
        ("1,2.5", tuple[float, ...], [1.0, 2.5]),
        ("slow", Literal["slow", "fast"], "slow"),
        ("2", Literal[1, 2], 2),
        ("1e-3", Any, 0.001),
    ],
)
def test_values_are_read_by_their_annotation(text, annotation, value):
    found = convert(text, annotation)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "annotation"),
    [("2.0", int), ("1e3", int), ("yes", bool), ("1", bool), ("much", float | None), ("1,x", list[int])],
)
def test_values_of_another_type_are_refused(text, annotation):
    with pytest.raises(ValueError):
        convert(text, annotation)


def test_a_literal_takes_none_but_its_members():
    with pytest.raises(ValueError):
        convert("quick", Literal["slow", "fast"])


def test_escapes_hold_in_values():
    assert read_options("name=a%26b%25=c&k=1e-3", "it", {"name": str, "k": float}) == {"name": "a&b%=c", "k": 0.001}


def test_keys_without_annotation_are_scalars_if_they_are_allowed():
    assert read_options("a=1e-3&b=yes", "it", {}, others_allowed=True) == {"a": 0.001, "b": "yes"}


def test_all_mistakes_are_reported_together():
    with pytest.raises(UserError) as caught:
        read_options("cuont=3&count=x&flag&name=a", "it", {"count": int, "flag": bool, "name": str})
    message = " ".join(str(caught.value).split())
    for part in (
        "Unknown option of it: cuont.",
        "did you mean 'count'?",
        "option count of it cannot take this value. got: x expected: a whole number",
        "option flag of it has no value. got: flag expected: flag=VALUE",
    ):
        assert part in message


def test_the_last_value_of_a_repeated_key_counts():
    assert read_options("count=1&count=2", "it", {"count": int}) == {"count": 2}


def test_missing_options_are_named():
    with pytest.raises(UserError, match=r"missing(?s:.*)got: +a=1(?s:.*)expected: +b, c"):
        read_options("a=1", "it", {"a": int, "b": int, "c": int}, required=("a", "b", "c"))


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (int | None, "a whole number, or null"),
        (list[float], "a number, several with commas between them"),
        (Literal["slow", "fast"], "one of slow, fast"),
    ],
)
def test_annotations_in_words(annotation, words):
    assert describe(annotation) == words
