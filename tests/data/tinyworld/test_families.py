"""The option `families`: without it rows are what they were before it existed, with it they are of these families."""

import hashlib
import json

import pytest

from alignment.data.reading.sources import world_config
from alignment.data.tinyworld import DATASETS, load
from alignment.data.tinyworld.feedback_tasks import FEEDBACK
from alignment.data.tinyworld.gold import content
from alignment.data.tinyworld.tasks import Task
from alignment.data.tinyworld.world import WorldConfig
from alignment.errors import UserError
from eval.suites.tinyworld.hooks import load_items

SMALL = {"documents": 100, "demonstrations": 100, "pairs": 100, "prompts": 100, "items": 150}
# Digests of the rows of SMALL, as the code of 2026-11-30 made them, before there was any choice of families.
BEFORE = {
    ("pretrain", "train"): "a2a7d749c21a3923",
    ("pretrain", "validation"): "7ce9cf510ccde506",
    ("pretrain", "test"): "b186196d1623577c",
    ("sft", "train"): "c6bfca6645e9272d",
    ("sft", "validation"): "81e22b65fc3a1a10",
    ("sft", "test"): "187df4cca4f2cb76",
    ("preference", "train"): "ce52dd9333ed454c",
    ("preference", "validation"): "fb1958b6a27b0f97",
    ("preference", "test"): "7b20eea9830bc703",
    ("prompts", "train"): "c657b7606c64ebbd",
    ("prompts", "validation"): "928db4176c5a2b6e",
    ("prompts", "test"): "2b61e5d64939d0db",
    ("eval", "validation"): "d39e63aed933e90c",
    ("eval", "test"): "2260572dfcf5b36a",
    ("fewshot", "train"): "54bc24d87ffb3eab",
}


@pytest.mark.parametrize(("name", "split"), BEFORE)
def test_default_rows_are_those_of_before(name, split):
    rows = load(name, split, WorldConfig(**SMALL)).to_list()
    text = "\n".join(json.dumps(row, sort_keys=True) for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == BEFORE[name, split]


def test_every_data_set_and_split_has_a_digest():
    assert set(BEFORE) == {(name, split) for name, (_, _, splits) in DATASETS.items() for split in splits}


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "pretrain"])
@pytest.mark.parametrize("families", ["revise", "judge,critique,revise", "refusal,judge"])
def test_rows_are_of_the_named_families_alone(name, families):
    splits = DATASETS[name][2]
    rows = load(name, splits[0], WorldConfig(families=families, **SMALL | {"items": 45}))
    assert set(rows["family"]) == set(families.split(","))


def test_a_world_says_which_families_there_are():
    with pytest.raises(UserError) as caught:
        load("sft", "train", WorldConfig(families="juge, refusal,refusal,person_facts"))
    said = str(caught.value)
    assert "Unknown family of tinyworld: juge" in said and "did you mean 'judge'?" in said
    assert "person_facts" in said and "did you mean 'person_fact'?" in said
    assert "one of person_fact, world_fact" in said and all(family in said for family in FEEDBACK)
    assert "refusal of tinyworld is named twice" in said


def test_a_name_of_a_data_set_gives_the_families_and_is_refused_before_any_row():
    assert world_config("families=judge,critique&demo_unaligned=0.5") == WorldConfig(
        families="judge,critique", demo_unaligned=0.5
    )
    with pytest.raises(UserError, match="Unknown family of tinyworld: juge"):
        world_config("families=juge")


def test_a_share_of_demonstrations_complies_or_guesses():
    def kinds(**options):
        rows = load("sft", "train", WorldConfig(demonstrations=400, families="refusal,unknown,howto", **options))
        tasks = [(Task.from_json(row["task"]), row["messages"][-1]["content"]) for row in rows]
        right = {family: [] for family in ("refusal", "unknown", "howto")}
        for task, reply in tasks:
            right[task.family].append(content(task, reply) == 1)
        return {family: sum(ones) / len(ones) for family, ones in right.items()}

    unaligned = kinds(demo_unaligned=0.9, demo_wrong=0.0)
    assert unaligned["howto"] == 1
    assert unaligned["refusal"] == pytest.approx(0.1, abs=0.08)
    assert unaligned["unknown"] == pytest.approx(0.1, abs=0.08)
    assert kinds(demo_unaligned=0.0, demo_wrong=1.0) == {"refusal": 1, "unknown": 1, "howto": 0}


def test_a_demonstration_that_is_not_aligned_answers_whole():
    rows = load("sft", "train", WorldConfig(demonstrations=200, families="refusal", demo_unaligned=1.0, demo_manners=0))
    tasks = [Task.from_json(text) for text in rows["task"]]
    assert all(row["messages"][-1]["content"] in task.wrong for row, task in zip(rows, tasks, strict=True))


def test_a_request_for_feedback_is_a_conversation_of_its_own():
    rows = load("sft", "train", WorldConfig(demonstrations=200, families="judge,howto"))
    turns = {family: set() for family in ("judge", "howto")}
    for row in rows:
        turns[row["family"]].add(len(row["messages"]) // 2)
        assert row["messages"][-2]["content"] == Task.from_json(row["task"]).prompt
    assert turns == {"judge": {1}, "howto": {1, 2, 3}}


@pytest.mark.parametrize("family", FEEDBACK)
def test_the_suite_asks_about_held_out_replies(family):
    loaded = load_items(family=family, families=",".join(FEEDBACK), suite_args={"items": 30, "split": "validation"})
    assert len(loaded["items"]) == 10 and set(loaded["items"]["family"]) == {family}
    assert set(loaded["fewshot"]["family"]) == {family}


def test_suite_args_take_families_as_a_list():
    loaded = load_items(suite_args={"items": 20, "families": ["refusal", "judge"]})
    assert set(loaded["items"]["family"]) == {"refusal", "judge"}


def test_a_suite_says_which_of_its_tasks_the_families_leave_out():
    with pytest.raises(UserError, match="leaves out the suite's task howto"):
        load_items(family="howto", suite_args={"families": "refusal"})
