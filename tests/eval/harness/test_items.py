"""A run's figures from its items: standard errors and intervals of tasks, groups and the centred average."""

from types import SimpleNamespace

import numpy as np
import pandas
import pytest

from eval.comparison.intervals import macro_interval
from eval.comparison.standard_errors import mean_se
from eval.harness.items import _aggregates, _centred_average, _figure, item_id


def items(**scores) -> pandas.DataFrame:
    rows = [
        {"task": task, "metric": "acc", "score": float(score), "weight": 1.0, "cluster": f"{task}-{place}"}
        for task, values in scores.items()
        for place, score in enumerate(values)
    ]
    return pandas.DataFrame(rows)


def of_group(found: pandas.DataFrame, by_size: bool = False) -> dict:
    """The aggregate of all tasks of the items."""
    names = list(dict.fromkeys(found["task"]))
    parts = [
        {"task": name, "metric": "acc"} | _figure(rows, float(rows["score"].mean()), len(rows), True, 0.5)
        for name, rows in found.groupby("task", sort=False)
    ]
    aggregate = SimpleNamespace(metric="acc", filter_list=None, weight_by_size=by_size)
    tasks = [SimpleNamespace(task_name=name) for name in names]
    group = SimpleNamespace(name="g", aggregate_metric_list=[aggregate], get_all_tasks=lambda: tasks)
    (figure,) = _aggregates(group, found, parts)
    return figure


def test_a_groups_interval_is_for_its_mean_over_tasks():
    found = items(a=[1, 0, 1], b=[0, 0, 1], c=[1, 1, 1])
    figure = of_group(found)
    arrays = [found[column].to_numpy() for column in ("score", "weight", "task", "cluster")]
    assert figure["se"] == pytest.approx((2 * (1 / 9)) ** 0.5 / 3) and figure["df"] == pytest.approx(4)
    assert (figure["ci_low"], figure["ci_high"]) == macro_interval(*arrays)
    pooled = of_group(found, by_size=True)
    assert pooled["df"] == pytest.approx(8) and pooled["se"] == pytest.approx(mean_se(arrays[0]))


@pytest.mark.parametrize("alone", [0, 1])
def test_a_group_with_a_lone_item_has_a_value_and_no_interval(alone):
    figure = of_group(items(a=[1, 0, 1], b=[alone]))
    assert figure["value"] == pytest.approx((2 / 3 + alone) / 2)
    assert [figure[key] for key in ("se", "df", "ci_low", "ci_high")] == [None] * 4


def test_a_perfect_score_has_an_interval_below_one():
    rows = items(a=[1] * 10)
    figure = _figure(rows, 1.0, 10, True, None)
    assert figure["se"] == 0 and 0.6 < figure["ci_low"] < 0.75 and figure["ci_high"] == pytest.approx(1)


def test_the_centred_average_has_satterthwaites_degrees_of_freedom():
    rng, rows = np.random.default_rng(0), []
    for name, size in (("a", 5), ("b", 9)):
        scored = items(**{name: rng.normal(size=size)})
        rows.append({"task": name, "metric": "acc"} | _figure(scored, float(scored["score"].mean()), size, True, 0.0))
    suite = SimpleNamespace(centred={"a": "acc", "b": "acc"})
    (figure,) = _centred_average(suite, rows)
    shares = np.array([row["se"] ** 2 for row in rows])
    assert figure["df"] == pytest.approx(shares.sum() ** 2 / (shares**2 / [4, 8]).sum())
    assert figure["ci_low"] < figure["value"] < figure["ci_high"]
    (unknown,) = _centred_average(suite, [rows[0], rows[1] | {"se": None}])
    assert unknown["se"] is unknown["ci_low"] is None


@pytest.mark.parametrize(
    ("doc", "expected"), [({"id": 7}, "7"), ({"id": 0}, "0"), ({"id": None}, "3-abcdefgh"), ({}, "3-abcdefgh")]
)
def test_items_without_an_id_have_their_place_and_digest(doc, expected):
    assert item_id({"doc": doc, "doc_id": 3, "doc_hash": "abcdefghij"}) == expected
