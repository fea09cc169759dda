"""Paired comparisons: verdicts and refusals."""

import json

import numpy as np
import pandas
import pytest
from stored_runs import make_run

from alignment.errors import UserError
from eval.comparison.compare import compare, compare_pairs, side_names
from eval.comparison.find import Asked, find_runs, match
from eval.harness.store import load_run, save_run


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


def test_the_seed_changes_the_bootstrap_only(sides):
    def without(rows):
        return [{key: value for key, value in row.items() if not key.startswith("boot_")} for row in rows]

    plain, same, other = compare(*sides), compare(*sides, seed=0), compare(*sides, seed=1)
    assert plain == same != other and without(other) == without(plain)


def test_lower_can_be_better(tmp_path):
    rng = np.random.default_rng(1)
    bits, size = rng.normal(3, 0.5, 100), list(rng.integers(50, 200, 100).astype(float))
    options = {"higher_is_better": False, "metric": "bits_per_byte", "weights": size}
    a = make_run(tmp_path / "a", "pretrain", {"clean": bits}, **options)
    b = make_run(tmp_path / "b", "sft", {"clean": bits - rng.uniform(0.05, 0.15, 100)}, **options)
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
    """A p of 0.03 among five tasks is not significant; alone it is."""
    fixed = [0.0] * 100
    gain = [1.0] * 6 + fixed[6:]  # exact McNemar: 2 / 2^6 = 0.03
    names = ["t1", "t2", "t3", "t4", "t5"]
    for count, verdict in ((5, "tied"), (1, "better")):
        a = make_run(tmp_path / f"a{count}", "pretrain", dict.fromkeys(names[:count], fixed))
        b = make_run(tmp_path / f"b{count}", "sft", dict.fromkeys(names[:count], fixed) | {"t1": gain})
        row = compare(a, b)[0]
        assert (row["p"], row["p_holm"], row["verdict"]) == (0.03125, min(1, 0.03125 * count), verdict)


def test_dependent_items_need_more_evidence(tmp_path):
    """Ten fixed items of one entity count as one: McNemar's test, which counts ten, is not used."""
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
        ({"settings": {"num_fewshot": 2, "limit": None}}, "numbers of few-shot"),
        ({"versions": {"lm_eval": "0.4.14"}}, "versions of lm-eval"),
    ],
)
def test_different_measurements_are_refused(sides, tmp_path, changes, problem):
    other = make_run(tmp_path / "c", "sft", {"easy": [1.0] * 200, "hard": [1.0] * 200}, **changes)
    with pytest.raises(UserError, match=problem):
        compare(sides[0], other)


def test_different_items_are_refused(sides, tmp_path):
    other = make_run(tmp_path / "c", "sft", {"easy": [1.0] * 200, "hard": [1.0] * 150})
    with pytest.raises(UserError, match="different items"):
        compare(sides[0], other)


def test_runs_of_checkpoints(tmp_path):
    for stage, score in (("pretrain", 0.0), ("sft", 1.0)):
        (tmp_path / "demo" / stage / "checkpoint").mkdir(parents=True)
        make_run(tmp_path / "demo/evals" / f"{stage}-toy-plain", stage, {"t": [score] * 20})
    make_run(tmp_path / "demo/evals/sft-lora-toy-plain", "sft-lora", {"t": [0.0] * 20})  # its name begins as sft's do
    a, b = (tmp_path / "demo" / stage / "checkpoint" for stage in ("pretrain", "sft"))
    assert find_runs(a) == {("toy", "plain", ""): (tmp_path / "demo/evals/pretrain-toy-plain").resolve()}
    verdicts = [row["verdict"] for row in compare_pairs(match(a, [b])[0])]
    assert verdicts == ["better", "better"]
    same = match(a.parent, [tmp_path / "demo/evals/sft-toy-plain"])[0]
    assert [run.path for run in same[0]] == [run.path for run in match(a, [b], ["toy"])[0][0]]
    with pytest.raises(UserError, match="'other'"):
        find_runs(a, ["other"])
    with pytest.raises(UserError, match="No eval runs"):
        find_runs(tmp_path / "demo/sft-l")


def test_runs_of_a_run_directory_and_of_a_folder_of_runs(tmp_path):
    """With several stages, equal stages are compared and named after their run directory; single stages may differ."""
    for run, score in (("one", 0.0), ("two", 1.0)):
        for stage in ("pretrain", "sft"):
            make_run(tmp_path / run / "evals" / f"{stage}-toy-plain", stage, {"t": [score] * 20})
    pairs, skipped = match(tmp_path / "one", [tmp_path / "two/evals"])
    rows = [row for row in compare_pairs(pairs) if not row["aggregate"]]
    assert [(row["a"], row["b"]) for row in rows] == [("one/pretrain", "two/pretrain"), ("one/sft", "two/sft")]
    assert not skipped and len(find_runs(tmp_path / "one")) == 2
    make_run(tmp_path / "three/dpo-toy-plain", "dpo", {"t": [1.0] * 20})
    ((a, b),) = match(tmp_path / "one/sft", [tmp_path / "three"])[0]
    assert (a.record["stage"], b.record["stage"]) == ("sft", "dpo")


def test_runs_of_a_checkpoint_outside_any_run_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, checkpoint in (("pythia-14m", "EleutherAI/pythia-14m"), ("mine", str(tmp_path / "models/mine"))):
        make_run(tmp_path / f"runs/evals/{name}-toy-plain", name, {"t": [0.0, 1.0]}, checkpoint=checkpoint)
    for given, name in (("EleutherAI/pythia-14m", "pythia-14m"), ("models/mine", "mine")):
        assert list(find_runs(given).values()) == [(tmp_path / f"runs/evals/{name}-toy-plain").resolve()]


def test_runs_of_one_side_only_are_named(sides, tmp_path):
    folder = tmp_path / "runs"
    scores = {"easy": [1.0] * 200, "hard": [1.0] * 200}
    make_run(folder / "x", "dpo", scores)
    make_run(folder / "y", "dpo", scores, format="chat", variant={"limit": 2})
    pairs, skipped = match(sides[0], [sides[1], folder])
    assert len(pairs) == 2
    assert skipped == [f"toy chat limit 2: only {folder} has it, {sides[0]} does not"]
    rows = load_run(folder / "x").record["tasks"]
    make_run(folder / "x", "dpo", scores, tasks=[rows[0], rows[1] | {"is_mean": False}])
    assert match(sides[0], [folder / "x"])[1] == ["toy: hard/exact_match is not a mean over items"]


def test_nothing_in_common(sides, tmp_path):
    chat = make_run(tmp_path / "c", "sft", {"easy": [1.0]}, format="chat")
    with pytest.raises(UserError, match="in common"):
        match(sides[0], [chat])


def test_identical_runs_are_tied(tmp_path):
    """b + c = 0: p is 1, the interval has no width, and there is no detectable effect."""
    scores = {"t": [0.0, 1.0] * 20}
    a, b = (make_run(tmp_path / stage, stage, scores) for stage in ("sft", "dpo"))
    for row in [*compare(a, b), *compare(a, a)]:
        assert (row["verdict"], row["p"], row["p_holm"], row["delta"]) == ("tied", 1.0, 1.0, 0.0)
        assert (row["ci_low"], row["ci_high"], row["boot_low"], row["fixed"], row["mde"]) == (0.0, 0.0, 0.0, 0, None)


def test_equal_graded_scores_are_tied(tmp_path):
    scores = {"t": np.random.default_rng(0).normal(size=40)}
    a, b = (make_run(tmp_path / s, s, scores, metric="gold_reward") for s in ("sft", "dpo"))
    assert {(row["verdict"], row["p"], row["test"]) for row in compare(a, b)} == {("tied", 1.0, "t")}


def test_one_item_has_no_verdict(tmp_path):
    a, b = (make_run(tmp_path / s, s, {"t": [score]}) for s, score in (("sft", 0.0), ("dpo", 1.0)))
    row = compare(a, b)[0]
    assert (row["verdict"], row["se"], row["ci_low"], row["mde"], row["clusters"]) == ("unknown", None, None, None, 1)
    assert row["p"] is row["p_holm"] is None and "fewer than two clusters" in row["reason"]


def test_different_templates_are_refused_in_chat_only(tmp_path):
    runs = {
        (stage, format): make_run(
            tmp_path / f"{stage}-{format}", stage, {"t": [1.0, 0.0]}, format=format, template_digest=stage
        )
        for stage in ("sft", "dpo")
        for format in ("plain", "chat")
    }
    with pytest.raises(UserError, match="chat templates"):
        compare(runs["sft", "chat"], runs["dpo", "chat"])
    assert compare(runs["sft", "chat"], runs["dpo", "chat"], any_template=True)
    assert compare(runs["sft", "plain"], runs["dpo", "plain"])


def test_few_shot_examples_with_another_seed_are_refused(tmp_path):
    def run(stage, shots, seed):
        seeds, settings = {"fewshot": seed, "sampling": seed}, {"num_fewshot": shots, "limit": None}
        return make_run(tmp_path / f"{stage}{shots}", stage, {"t": [1.0, 0.0]}, settings=settings, seeds=seeds)

    with pytest.raises(UserError, match="different seeds"):
        compare(run("sft", 3, 0), run("dpo", 3, 1))
    assert compare(run("sft", 0, 0), run("dpo", 0, 1))


def test_scores_that_are_not_numbers_are_refused(sides, tmp_path):
    broken = make_run(tmp_path / "c", "sft", {"easy": [float("nan")] * 200, "hard": [1.0] * 200})
    with pytest.raises(UserError, match=r"not numbers[.]\n  got: +200 of 400"):
        compare(sides[0], broken)


def test_duplicate_item_ids_are_refused(sides, tmp_path):
    items = load_run(sides[1]).items
    items.loc[1, "item_id"] = items.loc[0, "item_id"]
    save_run(tmp_path / "c", load_run(sides[1]).record, items)
    with pytest.raises(UserError, match="several items have the same id"):
        compare(sides[0], tmp_path / "c")


def test_refusals_of_several_pairs_come_together(sides, tmp_path):
    runs = [load_run(side) for side in sides]
    odd = load_run(make_run(tmp_path / "c", "sft", {"easy": [1.0] * 200}, suite_digest="e"))
    few = load_run(make_run(tmp_path / "d", "sft", {"easy": [1.0] * 200}))
    with pytest.raises(UserError, match=r"(?s)changed between.*different items"):
        compare_pairs([(runs[0], odd), (runs[0], runs[1]), (runs[0], few)])


def test_other_pairs_do_not_change_a_verdict(tmp_path):
    """The report compares pair by pair, `align compare` all together: both adjust p over the tasks of one pair."""
    base, gain = [0.0] * 100, [1.0] * 6 + [0.0] * 94  # exact McNemar: 2 / 2^6 = 0.03
    first = load_run(make_run(tmp_path / "a", "sft", {"t": base, "u": base}))
    others = [
        load_run(make_run(tmp_path / f"b{i}", f"dpo{i}", {"t": gain if i else base, "u": base})) for i in range(3)
    ]
    together = compare_pairs([(first, other) for other in others])
    alone = [row for other in others for row in compare(first, other)]
    assert together == alone
    assert [row["p_holm"] for row in alone if row["task"] == "t"] == [1.0, 2 * 0.03125, 2 * 0.03125]


@pytest.mark.parametrize("items", [2, 5, 40])
def test_a_constant_difference_of_graded_scores_is_unknown(tmp_path, items):
    """The items do not show how much others would differ: no p (certainly not 0), and no interval of width 0."""
    scores = np.random.default_rng(0).normal(size=items)
    a = make_run(tmp_path / "a", "sft", {"t": scores, "u": scores}, metric="gold_reward")
    b = make_run(tmp_path / "b", "dpo", {"t": scores + 0.2, "u": scores + 0.2}, metric="gold_reward")
    for row in compare(a, b):
        assert (row["verdict"], row["p"], row["p_holm"], row["se"]) == ("unknown", None, None, 0.0)
        assert (row["ci_low"], row["boot_low"], row["mde"]) == (None, None, None) and "changed alike" in row["reason"]
        assert row["delta"] == pytest.approx(0.2)


def test_right_or_wrong_scores_that_all_rose_have_an_exact_p_and_no_interval(tmp_path):
    for items, verdict in ((2, "tied"), (40, "better")):
        a, b = (make_run(tmp_path / f"{s}{items}", s, {"t": [x] * items}) for s, x in (("sft", 0.0), ("dpo", 1.0)))
        row = compare(a, b)[0]
        assert (row["verdict"], row["p"], row["ci_low"]) == (verdict, 2 * 0.5**items, None)


@pytest.mark.parametrize("sizes", [[1] * 5, [4, 4, 1], [40, 1]])
def test_a_macro_mean_with_a_lone_item_has_no_verdict(tmp_path, sizes):
    before = {f"t{i}": np.zeros(size) for i, size in enumerate(sizes)}
    after = {task: scores + 1 for task, scores in before.items()}
    a, b = (make_run(tmp_path / s, s, v) for s, v in (("sft", before), ("dpo", after)))
    whole = compare(a, b)[-1]
    assert whole["aggregate"] and whole["delta"] == 1 and whole["verdict"] == "unknown"
    assert [whole[key] for key in ("se", "df", "ci_low", "boot_low", "p", "p_holm", "mde")] == [None] * 7
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole


def test_undefined_tasks_do_not_count_in_the_family(tmp_path):
    before = {"t": np.zeros(100), "alone": np.zeros(1)}
    after = {"t": np.repeat([1.0, 0.0], [6, 94]), "alone": np.ones(1)}
    rows = compare(*(make_run(tmp_path / s, s, v) for s, v in (("sft", before), ("dpo", after))))
    assert [(row["p_holm"], row["verdict"]) for row in rows[:2]] == [(0.03125, "better"), (None, "unknown")]


def test_the_macro_test_and_its_interval_agree(tmp_path):
    rng = np.random.default_rng(4)
    for place in range(12):
        before = {f"t{i}": rng.normal(size=3) for i in range(8)}
        after = {task: scores + rng.normal(0.25, 0.6, size=3) for task, scores in before.items()}
        whole = compare(*(make_run(tmp_path / f"{s}{place}", s, v) for s, v in (("a", before), ("b", after))))[-1]
        assert (whole["ci_low"] > 0) == (whole["verdict"] == "better") and whole["df"] <= 16


def test_an_interval_does_not_leave_the_possible_range(tmp_path):
    """Four of five items rose: Student's interval would reach beyond 1. Graded scores have no known range."""
    before, after = {"t": [0.0] * 5, "u": [0.0] * 5}, {"t": [1.0] * 4 + [0.0], "u": [1.0] * 4 + [0.0]}
    up, down = (
        [make_run(tmp_path / f"{k}{i}", f"{k}{i}", v) for i, v in enumerate(pair)]
        for k, pair in (("up", (before, after)), ("down", (after, before)))
    )
    assert all(row["ci_low"] < row["delta"] < row["ci_high"] == 1 for row in compare(*up)[:2])
    assert all(row["ci_high"] > row["delta"] > row["ci_low"] == -1 for row in compare(*down)[:2])
    graded = [make_run(tmp_path / f"g{i}", f"g{i}", {"t": v}) for i, v in enumerate(([0.0] * 5, [9.0] * 4 + [0.0]))]
    assert compare(*graded)[0]["ci_high"] > 9


def test_only_runs_that_were_asked_for_are_found(tmp_path):
    for name, options in (("all", {}), ("few", {"variant": {"limit": 5}}), ("chat", {"format": "chat"})):
        make_run(tmp_path / f"demo/evals/sft-{name}", "sft", {"t": [1.0, 0.0]}, **options)

    def found(**asked):
        return {folder.name for folder in find_runs(tmp_path / "demo", asked=Asked(**asked)).values()}

    assert found() == {"sft-all", "sft-few", "sft-chat"}
    assert found(formats=["plain"]) == {"sft-all", "sft-few"} and found(limit=5) == {"sft-few"}
    assert found(template_digest="t") == found() and found(template_digest="x") == {"sft-all", "sft-few"}
    with pytest.raises(UserError, match="No eval runs found of suite 'toy' in chat format with --limit 7"):
        found(suites=["toy"], formats=["chat"], limit=7)


def test_sides_with_the_same_name_are_distinguished(tmp_path):
    def names(*places):
        return list(
            side_names([load_run(make_run(tmp_path / place, "sft", {"t": [1.0]})) for place in places]).values()
        )

    assert names("one/evals/sft-toy-plain") == ["sft"]
    assert names("one/evals/sft-toy-plain", "one/evals/sft-toy-chat") == ["sft", "sft"]
    assert names("one/evals/sft-toy-plain", "two/evals/sft-toy-plain") == ["one/sft", "two/sft"]
    assert names("x/one/evals/s", "y/one/evals/s") == [f"{tmp_path}/{place}/one/sft" for place in "xy"]
