"""The facts of tinyworld, and the assignment of its entities to splits.

A world is drawn from a seed: every person, town and animal gets a value for each of its relations. Every entity belongs
to one split, so that the entity of a test item appears in no SFT, preference or PPO prompt.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from random import Random

SPLITS = ("train", "validation", "test")
# Share of the entities (people, operand pairs, word lists, ...) in each split.
SPLIT_SHARES = {"train": 0.68, "validation": 0.07, "test": 0.25}


@dataclass(frozen=True)
class WorldConfig:
    """Sizes and shares of the generated data, which they determine: the same config gives the same rows.

    Attributes:
        seed: seed of the facts and of all rows.
        draw: number of the draw of rows: others than 0 are other rows of the same world.
        people: number of people in the world (each has five facts).
        largest_number: largest operand of the arithmetic tasks.
        documents: pretraining documents in the train split.
        demonstrations: SFT conversations in the train split.
        pairs: preference pairs in the train split.
        prompts: PPO prompts in the train split.
        items: evaluation items, the same number for each family.
        clean_share: share of pretraining documents that are neither rude, unsafe, wrong nor rambling.
        demo_wrong: share of SFT demonstrations that are wrong, as human demonstrations sometimes are.
        demo_manners: share of SFT demonstrations that are rude, and share that ramble.
        demo_unaligned: share of SFT demonstrations that comply with a harmful request, of those that are asked one, and
            that guess an answer about a stranger; by default as `demo_wrong`.
        pair_wrong: share of replies in preference pairs that are wrong.
        pair_manners: share of replies in preference pairs that are rude, and share that ramble.
        bt_temperature: temperature of the Bradley-Terry labels; 0 labels by the gold reward.
        label_noise: share of preference labels that are flipped afterwards.
        length_bias: added per word to the gold reward of a reply, for its label only.
        families: the task families of all rows but documents, with commas between them; empty for the fifteen ordinary
            ones. judge, critique and revise are in the rows only if they are named here.
    """

    seed: int = 0
    draw: int = 0
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
    demo_unaligned: float | None = None
    families: str = ""


@cache
def table(name: str) -> dict:
    """Read `words` or `templates`; long lists of names are written as one string of words."""
    from alignment.yaml_text import parse_yaml

    loaded = parse_yaml(files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")
    return {key: value.split() if isinstance(value, str) else value for key, value in loaded.items()}


@cache
def split_of(*entity: object) -> str:
    """Assign an entity to a split by a hash of its name, which is the same in every world and process."""
    digest = hashlib.sha256(" ".join(map(str, entity)).encode()).digest()
    share, ceiling = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split, part in SPLIT_SHARES.items():
        ceiling += part
        if share < ceiling:
            return split
    return SPLITS[-1]


@dataclass(frozen=True)
class World:
    """The entities of a config and their facts: `facts[relation][name]` is a value."""

    config: WorldConfig = field(default_factory=WorldConfig)
    facts: dict[str, dict[str, str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 10 <= self.config.people <= len(table("words")["people"]):
            raise ValueError(f"people must be 10 to {len(table('words')['people'])}, got {self.config.people}")
        object.__setattr__(self, "facts", self._draw_facts())

    def rng(self, *purpose: object) -> Random:
        """Return a separate generator for each purpose, so that changing one data set does not change the others."""
        return Random(" ".join(map(str, (self.config.seed, *purpose))))

    def names(self, kind: str) -> list[str]:
        """Return the entities of a kind: people, places or animals."""
        return table("words")[kind][: self.config.people] if kind == "people" else table("words")[kind]

    def _draw_facts(self) -> dict[str, dict[str, str]]:
        rng, words = self.rng("facts"), table("words")
        return {
            relation: {name: rng.choice(words[spec["values"]]) for name in self.names(spec["of"])}
            for relation, spec in table("templates")["facts"].items()
        }

    def facts_of(self, name: str) -> dict[str, str]:
        """Return relation -> value of an entity."""
        return {relation: values[name] for relation, values in self.facts.items() if name in values}
