"""The facts of tinyworld and who may be asked about where.

A world is drawn from a seed: every person, town and animal gets a value for each of its relations. Entities are dealt
to the splits once, so that an entity asked about in a test item appears in no SFT, preference or PPO prompt.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from random import Random

SPLITS = ("train", "validation", "test")
# Shares of the entities (people, operand pairs, word lists, ...) that each split may ask about.
SPLIT_SHARES = {"train": 0.68, "validation": 0.07, "test": 0.25}


@dataclass(frozen=True)
class WorldConfig:
    """What is generated. Everything follows from these numbers: the same config gives the same rows.

    Attributes:
        seed: draws the facts and every row.
        people: how many people the world has (each has five facts).
        largest_number: operands of the arithmetic tasks run from 1 to this.
        documents: pretraining documents in the train split.
        demonstrations: SFT conversations in the train split.
        pairs: preference pairs in the train split.
        prompts: PPO prompts in the train split.
        items: evaluation items, spread evenly over the families.
        clean_share: share of the pretraining documents that is neither rude, unsafe, wrong nor rambling.
        demo_wrong: share of the SFT demonstrations that are wrong: people who write them make mistakes.
        demo_manners: share of the SFT demonstrations that are rude, and share that ramble: people get impatient.
        pair_wrong: share of the replies in preference pairs that are wrong.
        pair_manners: share of the replies in preference pairs that are rude, and share that ramble.
        bt_temperature: temperature of the Bradley-Terry labels; 0 labels by the gold reward itself.
        label_noise: share of preference labels flipped on top.
        length_bias: added to the gold reward of a reply, for its label only, per word.
    """

    seed: int = 0
    people: int = 48
    largest_number: int = 12
    documents: int = 60_000
    demonstrations: int = 9_000
    pairs: int = 6_000
    prompts: int = 6_000
    items: int = 1_500
    clean_share: float = 0.8
    demo_wrong: float = 0.05
    demo_manners: float = 0.15
    pair_wrong: float = 0.3
    pair_manners: float = 0.2
    bt_temperature: float = 0.1
    label_noise: float = 0.0
    length_bias: float = 0.0


@cache
def table(name: str) -> dict:
    """Read `words` or `templates`; long lists of names are written as one string of words."""
    from ruamel.yaml import YAML

    text = files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    loaded = YAML(typ="safe", pure=True).load(text)
    return {key: value.split() if isinstance(value, str) else value for key, value in loaded.items()}


@cache
def split_of(*entity: object) -> str:
    """Deal an entity to a split by a hash of its name, the same in every world and every process."""
    digest = hashlib.sha256(" ".join(map(str, entity)).encode()).digest()
    share, ceiling = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split, part in SPLIT_SHARES.items():
        ceiling += part
        if share < ceiling:
            return split
    return SPLITS[-1]


@dataclass(frozen=True)
class World:
    """The entities of a config and their facts: `facts[relation][name]` is the value."""

    config: WorldConfig = field(default_factory=WorldConfig)
    facts: dict[str, dict[str, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 10 <= self.config.people <= len(table("words")["people"]):
            raise ValueError(f"people must be 10 to {len(table('words')['people'])}, got {self.config.people}")
        object.__setattr__(self, "facts", self._draw_facts())

    def rng(self, *purpose: object) -> Random:
        """A generator of its own for each purpose, so that changing one data set leaves the others as they are."""
        return Random(" ".join(map(str, (self.config.seed, *purpose))))

    def names(self, kind: str) -> list[str]:
        """The entities of a kind: people, places or animals."""
        return table("words")[kind][: self.config.people] if kind == "people" else table("words")[kind]

    def _draw_facts(self) -> dict[str, dict[str, str]]:
        rng, words = self.rng("facts"), table("words")
        return {
            relation: {name: rng.choice(words[spec["values"]]) for name in self.names(spec["of"])}
            for relation, spec in table("templates")["facts"].items()
        }

    def facts_of(self, name: str) -> dict[str, str]:
        """relation -> value of one entity."""
        return {relation: values[name] for relation, values in self.facts.items() if name in values}
