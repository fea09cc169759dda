"""Items whose score changed."""

import numpy as np
from stored_runs import make_run

from eval.comparison.compare import compare
from eval.comparison.flips import first_of_all, first_of_each, flips
from eval.harness.store import load_run


def runs(tmp_path, before, after, **options):
    return [load_run(make_run(tmp_path / s, s, v, **options)) for s, v in (("sft", before), ("dpo", after))]


def test_regressions_come_first_with_both_answers(tmp_path):
    a, b = runs(tmp_path, {"t": [0, 1, 1, 0], "u": [1, 1]}, {"t": [1, 0, 1, 0], "u": [1, 0]})
    found = flips(a, b)
    assert [(flip["change"], flip["item_id"]) for flip in found] == [
        ("regressed", "t-1"),
        ("regressed", "u-1"),
        ("fixed", "t-0"),
    ]
    assert found[0] == {
        "a": "sft",
        "b": "dpo",
        "suite": "toy",
        "format": "plain",
        "variant": {},
        "change": "regressed",
        "task": "t",
        "metric": "exact_match",
        "item_id": "t-1",
        "cluster": "t-1",
        "prompt": "t 1?",
        "target": "!",
        "output_a": "sft says 1",
        "output_b": "dpo says 0",
        "score_a": 1.0,
        "score_b": 0.0,
    }


def test_flips_agree_with_the_comparisons_counts(tmp_path):
    rng = np.random.default_rng(0)
    a, b = runs(tmp_path, {"t": rng.integers(0, 2, 80)}, {"t": rng.integers(0, 2, 80)})
    row, changes = compare(a, b)[0], [flip["change"] for flip in flips(a, b)]
    assert (changes.count("fixed"), changes.count("regressed")) == (row["fixed"], row["regressed"])
    assert not flips(a, a)


def test_largest_first_and_each_task_in_turn(tmp_path):
    a, b = runs(tmp_path, {"t": [0.5, 0.5, 0.5], "u": [0.5, 0.5]}, {"t": [0.3, 0.0, 0.3], "u": [0.3, 1.0]})
    assert [flip["item_id"] for flip in flips(a, b)] == ["t-1", "t-0", "u-0", "t-2", "u-1"]


def test_a_rise_is_a_regression_if_less_is_better(tmp_path):
    a, b = runs(tmp_path, {"t": [3.0, 3.0]}, {"t": [3.5, 2.0]}, metric="bits_per_byte", higher_is_better=False)
    assert [(flip["item_id"], flip["change"]) for flip in flips(a, b)] == [("t-0", "regressed"), ("t-1", "fixed")]


def test_the_first_of_each_kind(tmp_path):
    a, b = runs(tmp_path, {"t": [1, 1, 1, 0, 0]}, {"t": [0, 0, 0, 1, 1]})
    chosen = first_of_each(flips(a, b), 2)
    assert [flip["item_id"] for flip in chosen] == ["t-0", "t-1", "t-3", "t-4"]
    assert first_of_each(flips(a, b), 0) == []
    assert [flip["item_id"] for flip in first_of_all(flips(a, b), 3)] == ["t-0", "t-1", "t-3"]
    assert first_of_all(flips(a, b), 0) == []
