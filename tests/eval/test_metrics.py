"""The `evaluate` modules, loaded by path as others do, against hand values."""

import math
import os
import shutil
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

import eval

METRICS = Path(eval.__file__).parent / "metrics"
NAMES = sorted(path.parent.name for path in METRICS.glob("*/[!_]*.py"))


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """`evaluate` copies what it loads to a folder that is imported from: one of the tests' own.

    Others of this process may have imported from the user's, and left it on the path.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("modules")
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder)
        patch.syspath_prepend(folder)
        for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
            patch.delitem(sys.modules, name)
        yield


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Load a metric from a file that lies elsewhere, with the working directory elsewhere."""

    def load(name, **options):
        shutil.copy(METRICS / name / f"{name}.py", tmp_path / f"{name}.py")
        return evaluate.load(str(tmp_path / f"{name}.py"), cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.chdir(tmp_path)
    return load


def test_each_is_a_module_of_its_own_name():
    assert NAMES == ["bits_per_byte", "distinct_n", "ece", "exact_match_normalised", "win_rate"]
    for name in NAMES:
        assert (METRICS / name / f"{name}.py").is_file() and os.path.isfile(METRICS / name / "__init__.py")


def test_exact_match(load):
    metric = load("exact_match_normalised")
    found = metric.compute(predictions=["The hat.", "boat", "x", "Owl"], references=["hat", "Boat!", "y", "an owl"])
    assert found["exact_match"] == 0.75 and found["se"] == pytest.approx(0.25)
    found = metric.compute(predictions=["hat", "x"], references=[["cup", "the hat"], ["y"]])
    assert found["exact_match"] == 0.5


def test_bits_per_byte(load):
    found = load("bits_per_byte").compute(predictions=[-8 * math.log(2), -4 * math.log(2)], references=["abcd", "éx"])
    assert found["bits_per_byte"] == pytest.approx(12 / 7)  # é has two bytes
    with pytest.raises(ValueError, match="1 of 1 texts"):
        load("bits_per_byte").compute(predictions=[-1.0], references=[""])


def test_win_rate(load):
    found = load("win_rate").compute(predictions=[1, 1, 0.5, 0, math.nan], clusters=["a", "a", "b", "c", "d"])
    assert found["win_rate"] == 0.625 and (found["n"], found["clusters"], found["unjudged"]) == (4, 3, 1)
    assert load("win_rate").compute(predictions=[1, 1, 0.5, 0])["clusters"] == 4


def test_distinct_n(load):
    metric = load("distinct_n")
    assert metric.compute(predictions=["a b a b"])["distinct_n"] == pytest.approx(2 / 3)
    assert metric.compute(predictions=["a b a b"], n=1)["distinct_n"] == 0.5


def test_ece(load):
    confidence = np.repeat([0.6, 0.9], 100)
    correct = np.concatenate([np.arange(100) < 60, np.arange(100) < 50]).astype(int)
    assert load("ece").compute(predictions=confidence, references=correct, bins=2)["ece"] == pytest.approx(0.2)
    found = load("ece").compute(predictions=[0.1, 0.9, 0.95], references=[0, 1, 0], bins=2, by="width")
    assert found["ece"] == pytest.approx((0.1 + abs(0.9 + 0.95 - 1)) / 3)


def test_several_at_once(load):
    both = evaluate.combine([load("distinct_n"), load("exact_match_normalised")])
    found = both.compute(predictions=["a b"], references=["a b"])
    assert found["exact_match"] == 1.0 and found["distinct_n"] == 1.0
