"""Passages: texts about people of whom no other document tells, whose facts can only be read."""

from dataclasses import dataclass
from functools import cache
from itertools import product
from random import Random

from alignment.data.tinyworld.world import split_of, table


@dataclass(frozen=True)
class Passage:
    """A text about several people, with the same kinds of facts for each.

    Attributes:
        told: the sentences, one for each fact.
        facts: kind of fact (thing, home, food) -> name -> value; the values of a kind differ.
    """

    told: tuple[str, ...]
    facts: dict[str, dict[str, str]]

    @property
    def text(self) -> str:
        return " ".join(self.told)


@dataclass(frozen=True)
class Asked:
    """A question about a passage: the kind of fact, the person, and the right and the wrong answers as sentences."""

    kind: str
    name: str
    question: str
    answer: str
    wrong: tuple[str, ...]


def passage(rng: Random, split: str, people: int) -> Passage:
    """Write a passage about strangers of a split, with one or two kinds of facts in any order."""
    names = _strangers(rng, split, people)
    kinds = rng.sample(list(_facts()), rng.choice([1, 2]))
    facts = {kind: dict(zip(names, _values(rng, kind, people), strict=True)) for kind in kinds}
    told = [_say(kind, name, facts[kind][name]) for name in names for kind in kinds]
    rng.shuffle(told)
    return Passage(tuple(told), facts)


def ask(rng: Random, read: Passage, wordings: str) -> Asked:
    """Ask for a fact of a passage. Wrong answers have another's value, or are about another person."""
    kind = rng.choice(list(read.facts))
    values = read.facts[kind]
    name = rng.choice(list(values))
    others = [one for one in values if one != name]
    wrong = [_say(kind, name, values[one]) for one in others] + [_say(kind, one, values[one]) for one in others]
    question = rng.choice(_facts()[kind][wordings]).format(name=name)
    return Asked(kind, name, question, _say(kind, name, values[name]), tuple(wrong))


def _facts() -> dict[str, dict]:
    return table("templates")["reading"]["facts"]


def _say(kind: str, name: str, value: str) -> str:
    return _facts()[kind]["says"].format(name=name, value=value)


@cache
def _names(split: str) -> list[tuple[str, str]]:
    """Return start and end of the names of a split's strangers."""
    words = table("words")
    parts = product(words["stranger_starts"], words["stranger_ends"])
    return [(start, end) for start, end in parts if split_of(start + end) == split]


def _strangers(rng: Random, split: str, count: int) -> list[str]:
    """Draw names that have neither start nor end in common."""
    chosen: list[tuple[str, str]] = []
    for start, end in rng.sample(_names(split), len(_names(split))):
        if all(start != other and end != ending for other, ending in chosen):
            chosen.append((start, end))
        if len(chosen) == count:
            break
    return [start + end for start, end in chosen]


def _values(rng: Random, kind: str, count: int) -> list[str]:
    """Draw different values of a kind; things have colours, which differ too."""
    words = table("words")
    values = rng.sample(words[_facts()[kind]["values"]], count)
    colours = rng.sample(words["colours"], count)
    return [" ".join(pair) for pair in zip(colours, values, strict=True)] if kind == "thing" else values
