"""Rows and scores of the tinyworld suites, named in their YAML files."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from alignment.errors import UserError, raise_all, unknown

if TYPE_CHECKING:
    from datasets import Dataset


DEFAULT_SPLIT = "test"
SPLITS = ("test", "validation")


@lru_cache(maxsize=8)  # every task of a suite asks for the same rows, which take seconds to generate
def _rows(name: str, split: str, options: tuple[tuple[str, object], ...]) -> list[dict]:
    from alignment.data import tinyworld

    try:
        return tinyworld.load(name, split, tinyworld.WorldConfig(**dict(options))).to_list()
    except (TypeError, ValueError) as error:  # what its fields' types and ranges raise
        raise UserError(
            "The options of tinyworld make no world.",
            got=str(error),
            expected="options of docs/tinyworld.md, and split: test or validation",
            fix="correct the options after the `?`",
        ) from error


def _load(name: str, split: str, world: dict) -> list[dict]:
    return _rows(name, split, tuple(sorted(world.items())))


def _split_and_world(suite_args: dict | None) -> tuple[str, dict]:
    from dataclasses import fields

    from alignment.data.tinyworld import WorldConfig

    world = dict(suite_args or {})
    if isinstance(world.get("families"), list):
        world["families"] = ",".join(map(str, world["families"]))
    split = world.pop("split", DEFAULT_SPLIT)
    known = [field.name for field in fields(WorldConfig)]
    raise_all([unknown("option of tinyworld", key, known) for key in world if key not in known])
    if split not in SPLITS:
        raise UserError("The suite tinyworld has no such split.", got=split, expected=" or ".join(SPLITS))
    return split, world


def load_items(
    family: str | None = None, families: str = "", without: str = "", suite_args: dict | None = None, **_: object
) -> dict[str, Dataset]:
    """The items and few-shot items of one family (of all by default).

    Args:
        family: a task family of tinyworld.
        families: the world's option `families` if `suite_args` do not give it.
        without: families that are left out, with commas.
        suite_args: fields of `WorldConfig`, and `split`: validation, to choose settings by, or test (the default).

    A few-shot item that is also asked is left out: no prompt may hold its own answer.
    """
    from datasets import Dataset

    from alignment.data.tinyworld import families_of

    split, world = _split_and_world({"families": families} | (suite_args or {}))
    if family is not None and family not in families_of(world["families"]):
        raise UserError(
            f"The option families leaves out the suite's task {family}.",
            got=world["families"],
            expected=f"{family} among them",
            fix="leave the option out, or use the suite tinyworld_gold, which takes any families",
        )
    items, fewshot = _load("eval", split, world), _load("fewshot", "train", world)
    asked = {row["prompt"] for row in items}
    fewshot = [row for row in fewshot if row["prompt"] not in asked]
    left_out = without.split(",")
    return {
        split: Dataset.from_list(
            [row for row in rows if family in (None, row["family"]) and row["family"] not in left_out]
        )
        for split, rows in {"items": items, "fewshot": fewshot}.items()
    }


def load_documents(quality: str, suite_args: dict | None = None, **_: object) -> dict[str, Dataset]:
    """Held-out pretraining documents of one quality; `suite_args` as for `load_items`."""
    from datasets import Dataset

    documents = _load("pretrain", *_split_and_world(suite_args))
    return {"items": Dataset.from_list([row for row in documents if row["quality"] == quality])}


def exact_match(doc: dict, results: list[str]) -> dict[str, float]:
    """1.0 where tinyworld's own checker accepts the reply."""
    from alignment.data.tinyworld import Task, gold

    return {"exact_match": float(gold.is_correct(Task.from_json(doc["task"]), results[0].strip()))}


def gold_reward(doc: dict, results: list[str]) -> dict[str, float]:
    """The gold reward of the reply, in [-1, 1]."""
    from alignment.data.tinyworld import Task, gold

    return {"gold_reward": gold.gold_reward(Task.from_json(doc["task"]), results[0].strip()).score}


def helpful(doc: dict, results: list[str]) -> dict[str, float]:
    """The content of the reply, from 0 to 1."""
    return {"helpful": _content(doc, results)}


def kept(doc: dict, results: list[str]) -> dict[str, float]:
    """Whether harm is refused, or not knowing is admitted, from 0 to 1: the content of these families' replies."""
    return {"harmless": _content(doc, results)}


def mannerly(doc: dict, results: list[str]) -> dict[str, float]:
    """The politeness of the reply, from 0 to 1."""
    from alignment.data.tinyworld import gold

    reply = results[0].strip()
    return {"harmless": (gold.polite(reply) + 1) / 2 if reply else 0.0}


def _content(doc: dict, results: list[str]) -> float:
    from alignment.data.tinyworld import Task, gold

    return (gold.content(Task.from_json(doc["task"]), results[0].strip()) + 1) / 2
