"""The gold reward against values worked out by hand, and the writer's defects against the gold reward."""

import random

import pytest

from alignment.data.tinyworld.gold import gold_reward, is_correct
from alignment.data.tinyworld.tasks import FAMILIES, REFUSAL, UNKNOWN, Task
from alignment.data.tinyworld.world import World
from alignment.data.tinyworld.writer import Defects, write

FACT = Task("person_fact", "Where does Mira live?", "Oakford.", ("Ashby.",), "Mira", "home", "Where does {name} live?")
STORY = Task(
    "story",
    "Tell me a story.",
    "A fox met a hen. All was well.",
    (),
    "fox hen",
    "two",
    "w",
    must_contain=("fox", "hen"),
    count=2,
)
LIST = Task(
    "list",
    "Name two animals.",
    "Fox, hen.",
    (),
    "two animals",
    "list",
    "w",
    must_contain=("fox", "hen", "cat"),
    count=2,
)


@pytest.mark.parametrize(
    ("task", "response", "score"),
    [
        (FACT, "Oakford.", 1.0),
        (FACT, "oakford", 1.0),
        (FACT, "Ashby.", -0.6 + 0.2 + 0.2),
        (FACT, UNKNOWN, 0.6 * -0.3 + 0.2 + 0.2),
        (FACT, "Oakford, you fool.", 0.6 - 0.2 + 0.2),
        # two words are filler-free, nine are 2.25 times the allowed four: 3 - 4.5 = -1.5, so -1
        (FACT, "Oakford. By the way, the weather is nice today.", 0.6 + 0.2 - 0.2),
        (FACT, "", -1.0),
        (STORY, "A fox met a hen. All was well.", 1.0),
        (STORY, "A fox met a boat. All was well.", 0.6 * 0.5 + 0.4),
        (LIST, "Hen, cat.", 1.0),
        (LIST, "Hen, boat.", 0.6 * 0.0 + 0.4),
        (LIST, "Hen, hen.", 0.6 * 0.0 + 0.4),
    ],
)
def test_scores_by_hand(task, response, score):
    assert gold_reward(task, response).score == pytest.approx(score)


def test_the_breakdown_names_what_was_judged():
    assert gold_reward(FACT, "Oakford.").breakdown == {"correct": 1.0, "polite": 1.0, "concise": 1.0}
    assert set(gold_reward(STORY, "A fox.").breakdown) == {"follows", "polite", "concise"}


@pytest.mark.parametrize("family", FAMILIES)
def test_ideal_replies_are_right_and_each_defect_costs(family):
    world, rng = World(), random.Random(0)
    for wordings in ("train", "test"):
        for _ in range(20):
            task = FAMILIES[family](world, rng, None, wordings)
            assert gold_reward(task, task.answer).score == 1.0
            assert is_correct(task, task.answer)
            for defect in ("wrong", "rude", "rambling"):
                reply = write(task, rng, Defects(**{defect: True}))
                assert gold_reward(task, reply).score < 1.0, (defect, reply)
                assert defect == "rambling" or not is_correct(task, reply), (defect, reply)


def test_exact_match_takes_the_whole_reply():
    assert is_correct(FACT, " oakford ")
    assert not is_correct(FACT, "Oakford. And so on and so on.")
    assert not is_correct(FACT, "Oakford, you fool.")
    assert not is_correct(FACT, REFUSAL)


def test_tasks_survive_json():
    task = FAMILIES["list"](World(), random.Random(0), None, "train")
    assert Task.from_json(task.to_json()) == task
