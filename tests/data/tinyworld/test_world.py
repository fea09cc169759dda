"""tinyworld's promises: everything follows from the seed, and test items stay out of every training split."""

import json
import math
import random
import re
import subprocess
import sys

import pytest

from alignment.data.tinyworld import load, prefers_first
from alignment.data.tinyworld.tasks import FAMILIES, Task
from alignment.data.tinyworld.world import World, WorldConfig, table

SMALL = WorldConfig(documents=3000, demonstrations=1500, pairs=800, prompts=1500, items=600)
TRAINED_ON = ("sft", "preference", "prompts")


def tasks_of(name: str, split: str) -> list[Task]:
    return [Task.from_json(text) for text in load(name, split, SMALL)["task"]]


def test_the_same_seed_gives_the_same_rows_in_another_process():
    code = (
        "import json; from alignment.data.tinyworld import WorldConfig, load;"
        "print(json.dumps(list(load('sft', 'train', WorldConfig(demonstrations=40)))))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == list(load("sft", "train", WorldConfig(demonstrations=40)))
    assert json.loads(printed) != list(load("sft", "train", WorldConfig(demonstrations=40, seed=1)))


def test_more_rows_begin_with_the_same_rows():
    few = load("pretrain", "train", WorldConfig(documents=50))["text"]
    many = load("pretrain", "train", WorldConfig(documents=100))["text"]
    assert list(few) == list(many)[:50]


@pytest.mark.parametrize("name", TRAINED_ON)
def test_no_training_split_asks_about_what_the_test_items_ask(name):
    # copying and sorting ask about the same word lists; an entity is held out from every family
    asked = {(task.family, task.entity) for task in tasks_of("eval", "test")}
    trained = {(task.family, task.entity) for split in ("train", "validation") for task in tasks_of(name, split)}
    assert not asked & trained
    people = {task.entity for task in tasks_of("eval", "test") if task.family == "person_fact"}
    assert len(people) >= 5


def test_settings_are_chosen_on_items_that_are_neither_trained_on_nor_reported():
    chosen_by = {(task.family, task.entity) for task in tasks_of("eval", "validation")}
    asked = {(task.family, task.entity) for task in tasks_of("eval", "test")}
    trained = {(task.family, task.entity) for name in TRAINED_ON for task in tasks_of(name, "train")}
    assert len(chosen_by) > 50
    assert not chosen_by & asked and not chosen_by & trained


def test_the_test_wordings_occur_in_no_training_split():
    tested = {(task.family, task.wording) for task in tasks_of("eval", "test")}
    trained = {(task.family, task.wording) for name in TRAINED_ON for task in tasks_of(name, "train")}
    assert not tested & trained
    documents = "\n".join(load("pretrain", "train", SMALL)["text"])
    asked = [row["prompt"] for row in load("eval", "test", SMALL)]
    assert not [prompt for prompt in asked if f"Question: {prompt}\n" in documents]


def test_the_facts_that_test_items_ask_for_are_in_the_documents():
    documents = "\n".join(load("pretrain", "train", WorldConfig())["text"])
    facts = [task for task in tasks_of("eval", "test") if task.family in ("person_fact", "world_fact")]
    for task in facts:
        spec = table("templates")["facts"][task.relation]
        value = task.answer.rstrip(".").lower()
        stated = [says.format(name=task.entity, value=value).lower() for says in spec["says"]]
        assert any(sentence in documents.lower() for sentence in stated), task


def test_strangers_occur_in_no_document():
    documents = set(re.findall(r"\w+", "\n".join(load("pretrain", "train", SMALL)["text"])))
    strangers = {task.entity for task in tasks_of("eval", "test") if task.family == "unknown"}
    assert strangers and not strangers & documents


def test_the_share_of_clean_documents_is_the_configured_one():
    qualities = load("pretrain", "train", SMALL)["quality"]
    share = sum(quality == "clean" for quality in qualities) / len(qualities)
    assert share == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / len(qualities)))
    assert set(load("pretrain", "train", WorldConfig(documents=200, clean_share=1.0))["quality"]) == {"clean"}


def test_every_family_has_items_and_there_are_over_a_thousand():
    families = load("eval", "test")["family"]
    assert set(families) == set(FAMILIES) and len(FAMILIES) >= 12
    assert len(families) >= 1000


def test_bradley_terry_labels_have_their_temperature():
    rng = random.Random(0)
    wins = sum(prefers_first(rng, 0.5, 0.3, 0.2) for _ in range(4000)) / 4000
    assert wins == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert prefers_first(rng, 0.3, 0.2, 0) and not prefers_first(rng, 0.2, 0.3, 0)


def test_preference_knobs():
    def agreement(**knobs):
        rows = load("preference", "train", WorldConfig(pairs=600, **knobs))
        pairs = [row for row in rows if row["gold_chosen"] != row["gold_rejected"]]
        return sum(row["gold_chosen"] > row["gold_rejected"] for row in pairs) / len(pairs)

    def longer(**knobs):
        rows = load("preference", "train", WorldConfig(pairs=600, **knobs))
        lengths = [(len(r["chosen"][0]["content"]), len(r["rejected"][0]["content"])) for r in rows]
        return sum(chosen > rejected for chosen, rejected in lengths) / len(lengths)

    assert agreement(bt_temperature=0) == 1
    assert agreement(bt_temperature=0, label_noise=0.25) == pytest.approx(0.75, abs=0.06)
    assert longer(length_bias=0.5) > longer() + 0.2


def test_a_config_out_of_range_is_refused():
    with pytest.raises(ValueError, match="people must be"):
        World(WorldConfig(people=5))
    with pytest.raises(ValueError, match="has the splits validation, test"):
        load("eval", "train")
