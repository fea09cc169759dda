"""The Python API refuses what the command line could not be given, with errors that say what it takes."""

from pathlib import Path

import pytest

import alignment
from alignment.errors import UserError


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"data": 3}, "data"),
        ({"data": ["a.jsonl", 3]}, "data"),
        ({"data": []}, "data"),
        ({"model": 3}, "model"),
        ({"seed": "3"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_truncated": "a"}, "max_truncated"),
        ({"quick": 1}, "quick"),
        ({"output_dir": True}, "output_dir"),
    ],
)
def test_options_of_wrong_types_are_refused(options, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{name} cannot take this value") as raised:
        alignment.run_stage("sft", **{"model": "m/m", "data": "d.jsonl"} | options)
    assert raised.value.got == repr(options[name]) and raised.value.expected


def test_evaluations_go_where_they_are_asked_to(tmp_path, monkeypatch):
    called = {}

    def evaluate_many(checkpoint, suites, formats, output_dir, **options):
        called.update(options, output_dir=output_dir)
        return []

    monkeypatch.setattr("eval.harness.run_suite.evaluate_many", evaluate_many)
    assert alignment.evaluate("m/m", "tinyworld", output_dir=tmp_path / "mine", seed=7) == []
    assert called["output_dir"] == tmp_path / "mine" and called["seed"] == 7
    alignment.evaluate("m/m", "tinyworld")
    assert called["output_dir"] == Path("runs/evals")


@pytest.mark.parametrize(("option", "fix"), [("stage", "leave it out"), ("variant", "leave it out"), ("sed", "'seed'")])
def test_unknown_options_of_evaluate_are_refused(option, fix):
    with pytest.raises(UserError, match=f"evaluate takes no {option}") as raised:
        alignment.evaluate("m/m", "tinyworld", **{option: "x"})
    assert fix in raised.value.fix


def test_a_comparison_needs_two():
    with pytest.raises(UserError, match="two checkpoints"):
        alignment.compare("m/m")
