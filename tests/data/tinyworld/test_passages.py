"""Passages: what a text says of each person can be asked for, and answered from the text alone."""

import re
from random import Random

import pytest

from alignment.data.tinyworld import draw_task
from alignment.data.tinyworld.documents import document, reread
from alignment.data.tinyworld.gold import gold_reward
from alignment.data.tinyworld.passages import ask, passage
from alignment.data.tinyworld.tasks import reading
from alignment.data.tinyworld.world import World, split_of

NAME = re.compile(r"(\w+) (?:has a|lives in|likes) ")


def names_in(text: str) -> set[str]:
    return set(NAME.findall(text))


@pytest.mark.parametrize("people", [1, 2, 3, 4])
def test_a_passage_has_every_fact_once_and_no_two_people_share_a_value_or_a_part_of_their_names(people):
    rng = Random(people)
    for _ in range(50):
        read = passage(rng, "test", people)
        assert len(read.told) == people * len(read.facts) == len(set(read.told))
        for values in read.facts.values():
            assert len(values) == people == len(set(values.values()))
            assert all(any(name in line and value in line for line in read.told) for name, value in values.items())
        names = sorted(names_in(read.text))
        assert len(names) == people and {split_of(name) for name in names} == {"test"}
        assert len({name[:3] for name in names}) == people == len({name[-2:] for name in names})


@pytest.mark.parametrize("wordings", ["train", "test"])
def test_the_answer_is_a_sentence_of_the_passage_and_the_wrong_ones_are_not_answers(wordings):
    rng = Random(3)
    for _ in range(200):
        read = passage(rng, "train", 3)
        asked = ask(rng, read, wordings)
        assert asked.answer in read.told and asked.name in asked.question and asked.name in asked.answer
        assert len(set(asked.wrong)) == 4 and asked.answer not in asked.wrong
        for wrong in asked.wrong:  # of another person, or contradicted by the text
            assert asked.name not in wrong or wrong not in read.told


def test_answering_for_any_of_the_people_is_right_in_29_percent():
    rng, hits, drawn = Random(0), 0, 1000
    for _ in range(drawn):
        task = reading(World(), rng, "validation", "train")
        (kind,) = re.findall(r"has a|lives in|likes", task.answer)
        told = [line for line in re.findall(r"[A-Z]\w+ (?:has a|lives in|likes) [\w ]+\.", task.prompt) if kind in line]
        assert task.answer in told and len(told) in (3, 4)
        hits += rng.choice(told) == task.answer
    assert hits / drawn == pytest.approx(7 / 24, abs=0.045)


def test_only_the_right_answer_has_the_full_gold_reward():
    task = reading(World(), Random(1), "test", "test")
    assert gold_reward(task, task.answer).score == 1
    assert max(gold_reward(task, wrong).score for wrong in task.wrong) < 0


def test_people_of_held_out_passages_occur_in_no_document_and_no_training_prompt():
    world, rng = World(), Random(0)
    people = set().union(*(names_in(reading(world, rng, "test", "test").prompt) for _ in range(60)))
    assert len(people) > 60
    documents = "\n".join(document(world, rng, "clean") for _ in range(800))
    prompts = "\n".join(draw_task(world, rng, "train").prompt for _ in range(800))
    seen = set(re.findall(r"\w+", documents + prompts))
    assert not people & seen
    known = set().union(*(names_in(reading(world, rng, "train", "train").prompt) for _ in range(60)))
    assert len(known & seen) > 60  # the search would find names


def test_documents_that_go_back_to_a_passage_tell_nothing_new():
    rng = Random(5)
    for _ in range(100):
        first, *lines = reread(World(), rng).split("\n")
        told = set(re.findall(r"[A-Z][^.]+\.", first))
        again = [line.removeprefix("Answer: ") for line in lines if not line.startswith("Question: ")]
        assert again and all(set(re.findall(r"[A-Z][^.]+\.", line)) <= told for line in again)
