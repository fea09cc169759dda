"""Paired comparisons: verdicts, and what is refused."""

import json

import numpy as np
import pandas
import pytest

from alignment.errors import UserError
from eval.compare import compare, compare_found, find_runs
from eval.store import save_run


def make_run(
    folder, stage, scores, *, higher_is_better=True, clusters=None, weights=None, metric="exact_match", **changes
):
    """A stored run with the tasks of `scores` (task -> list) and their macro mean, without a model."""
    items = pandas.DataFrame(
        [
            {
                "task": task,
                "metric": metric,
                "item_id": f"{task}-{i}",
                "cluster": clusters[i] if clusters else f"{task}-{i}",
                "prompt": "?",
                "target": "!",
                "output": "",
                "score": float(score),
                "weight": weights[i] if weights else 1.0,
                "gen_len": 1,
                "truncated": False,
            }
            for task, values in scores.items()
            for i, score in enumerate(values)
        ]
    )
    figure = {"metric": metric, "is_mean": True, "higher_is_better": higher_is_better, "members": None, "pooled": False}
    record = {
        "run_id": f"{stage}-toy-plain",
        "suite": "toy",
        "format": "plain",
        "stage": stage,
        "settings": {"num_fewshot": None, "limit": None},
        "suite_digest": "d",
        "tasks": [figure | {"task": task} for task in scores] + [figure | {"task": "toy", "members": list(scores)}],
    }
    save_run(folder, record | changes, items)
    return folder


@pytest.fixture
def sides(tmp_path):
    rng = np.random.default_rng(0)
    base = {"easy": rng.random(200) < 0.3, "hard": rng.random(200) < 0.3}
    better = {"easy": base["easy"] | (rng.random(200) < 0.5), "hard": base["hard"]}
    return make_run(tmp_path / "a", "pretrain", base), make_run(tmp_path / "b", "sft", better)


def test_better_tied_worse(sides):
    easy, hard, macro = compare(*sides)
    assert (easy["a"], easy["b"], easy["suite"], easy["format"]) == ("pretrain", "sft", "toy", "plain")
    assert (easy["verdict"], hard["verdict"], macro["verdict"]) == ("better", "tied", "better")
    assert easy["ci_low"] < easy["delta"] < easy["ci_high"] and easy["regressed"] == 0
    assert easy["delta"] == pytest.approx(easy["fixed"] / 200)
    assert macro["delta"] == pytest.approx(easy["delta"] / 2) and macro["n"] == 400
    assert hard["p"] == 1.0 and hard["delta"] == 0
    assert json.dumps([easy, hard, macro])
    back = compare(*reversed(sides))
    assert [row["verdict"] for row in back] == ["worse", "tied", "worse"]
    assert back[0]["delta"] == -easy["delta"]


def test_lower_can_be_better(tmp_path):
    rng = np.random.default_rng(1)
    bits, size = rng.normal(3, 0.5, 100), list(rng.integers(50, 200, 100).astype(float))
    options = {"higher_is_better": False, "metric": "bits_per_byte", "weights": size}
    a = make_run(tmp_path / "a", "pretrain", {"clean": bits}, **options)
    b = make_run(tmp_path / "b", "sft", {"clean": bits - 0.1}, **options)
    assert {row["verdict"] for row in compare(a, b)} == {"better"}
    assert {row["verdict"] for row in compare(b, a)} == {"worse"}


def test_pairing_sees_what_two_intervals_do_not(tmp_path):
    """A small gain on every item is lost in the spread between items unless items are paired."""
    scores = np.random.default_rng(2).normal(0, 1, 100)
    a = make_run(tmp_path / "a", "pretrain", {"gold": scores}, metric="gold_reward")
    gain = 0.05 + np.random.default_rng(3).normal(0, 0.05, 100)
    b = make_run(tmp_path / "b", "sft", {"gold": scores + gain}, metric="gold_reward")
    row = compare(a, b)[0]
    assert row["verdict"] == "better" and row["se"] < 0.01 < scores.std() / 10


def test_holm_over_tasks(tmp_path):
    """One p of 0.03 among five tasks is no finding; the same alone is."""
    fixed = [0.0] * 100
    gain = [1.0] * 6 + fixed[6:]  # exact McNemar: 2 / 2^6 = 0.03
    names = ["t1", "t2", "t3", "t4", "t5"]
    for count, verdict in ((5, "tied"), (1, "better")):
        a = make_run(tmp_path / f"a{count}", "pretrain", dict.fromkeys(names[:count], fixed))
        b = make_run(tmp_path / f"b{count}", "sft", dict.fromkeys(names[:count], fixed) | {"t1": gain})
        row = compare(a, b)[0]
        assert (row["p"], row["p_holm"], row["verdict"]) == (0.03125, min(1, 0.03125 * count), verdict)


def test_dependent_items_need_more_evidence(tmp_path):
    """Ten fixed items of one entity are one finding: McNemar, which takes them for ten, is not used."""
    before, after = [0.0] * 40, [1.0] * 10 + [0.0] * 30
    alone = compare(make_run(tmp_path / "a", "pretrain", {"t": before}), make_run(tmp_path / "b", "sft", {"t": after}))
    entities = {"clusters": [str(i // 10) for i in range(40)]}
    a, b = (make_run(tmp_path / f"c{s}", s, {"t": v}, **entities) for s, v in (("pretrain", before), ("sft", after)))
    assert alone[0]["verdict"] == "better" and compare(a, b)[0]["verdict"] == "tied"


def test_rows_in_another_order_still_pair(sides, tmp_path):
    items = pandas.read_parquet(sides[1] / "items.parquet")
    record = json.loads((sides[1] / "run.json").read_text())
    save_run(tmp_path / "c", record, items.sample(frac=1, random_state=0))
    straight, shuffled = compare(*sides), compare(sides[0], tmp_path / "c")
    assert [row["delta"] for row in straight] == pytest.approx([row["delta"] for row in shuffled])
    assert [row["fixed"] for row in straight] == [row["fixed"] for row in shuffled]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": "chat"}, "different formats"),
        ({"suite": "other"}, "different suites"),
        ({"suite_digest": "e"}, "changed between the runs"),
        ({"settings": {"num_fewshot": 2, "limit": None}}, "few-shot"),
    ],
)
def test_different_measurements_are_refused(sides, tmp_path, changes, problem):
    other = make_run(tmp_path / "c", "sft", {"easy": [1.0] * 200, "hard": [1.0] * 200}, **changes)
    with pytest.raises(UserError, match=problem):
        compare(sides[0], other)


def test_different_items_are_refused(sides, tmp_path):
    other = make_run(tmp_path / "c", "sft", {"easy": [1.0] * 200, "hard": [1.0] * 150})
    with pytest.raises(UserError, match="same items"):
        compare(sides[0], other)


def test_runs_of_checkpoints(tmp_path):
    for stage, score in (("pretrain", 0.0), ("sft", 1.0)):
        (tmp_path / "demo" / stage / "checkpoint").mkdir(parents=True)
        make_run(tmp_path / "demo/evals" / f"{stage}-toy-plain", stage, {"t": [score] * 20})
    make_run(tmp_path / "demo/evals/sft-lora-toy-plain", "sft-lora", {"t": [0.0] * 20})  # its name begins as sft's do
    a, b = (tmp_path / "demo" / stage / "checkpoint" for stage in ("pretrain", "sft"))
    assert find_runs(a) == {("toy", "plain", ""): (tmp_path / "demo/evals/pretrain-toy-plain").resolve()}
    assert [row["verdict"] for row in compare_found(a, b)] == ["better", "better"]
    assert compare_found(a.parent, tmp_path / "demo/evals/sft-toy-plain") == compare_found(a, b, "toy")
    with pytest.raises(UserError, match="'other'"):
        find_runs(a, "other")
    with pytest.raises(UserError, match="No eval runs"):
        find_runs(tmp_path)


def test_nothing_in_common(sides, tmp_path):
    chat = make_run(tmp_path / "c", "sft", {"easy": [1.0]}, format="chat")
    with pytest.raises(UserError, match="in common"):
        compare_found(sides[0], chat)
