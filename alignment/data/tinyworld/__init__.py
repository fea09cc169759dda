"""tinyworld: a small fictional world, generated from a seed, with known truth.

`load(name, split, config)` returns the rows of one data set as a `datasets.Dataset`:

    pretrain    text, quality
    sft         messages, family, task
    preference  prompt, chosen, rejected (messages), family, gold_chosen, gold_rejected, task
    prompts     prompt (messages), family, task
    eval        id, family, prompt, target, cluster, task     (entities of the split; test: test wordings too)
    fewshot     the same columns                              (training entities and wordings)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from alignment.data.tinyworld.documents import document, draw_quality
from alignment.data.tinyworld.feedback_tasks import FEEDBACK
from alignment.data.tinyworld.gold import gold_reward
from alignment.data.tinyworld.tasks import FAMILIES, Task
from alignment.data.tinyworld.world import SPLITS, World, WorldConfig
from alignment.data.tinyworld.writer import Defects, demonstrate, write
from alignment.errors import UserError, raise_all, unknown

if TYPE_CHECKING:
    from datasets import Dataset

FILES = sorted(str(path) for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".yaml"))
HELD_OUT_ROWS = 500
FEWSHOT_PER_FAMILY = 8


def turn(role: str, content: str) -> dict[str, str]:
    """Return a message."""
    return {"role": role, "content": content}


@cache
def families_of(families: str) -> dict[str, Callable[[World, Random, str | None, str], Task]]:
    """Return the families that are named in a text, in its order; the ordinary ones for an empty text.

    Raises:
        UserError: for all unknown and repeated names together.
    """
    if not families:
        return FAMILIES
    known = FAMILIES | FEEDBACK
    names = [name.strip() for name in families.split(",")]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    raise_all(
        [unknown("family of tinyworld", name, tuple(known)) for name in names if name not in known]
        + [UserError(f"The family {name} of tinyworld is named twice.", got=families) for name in repeated]
    )
    return {name: known[name] for name in names}


def draw_task(world: World, rng: Random, split: str) -> Task:
    """Draw a task of any of the config's families. Only test items use the test wordings."""
    families = families_of(world.config.families)
    return rng.choice(list(families.values()))(world, rng, split, "test" if split == "test" else "train")


def pretrain_rows(world: World, rng: Random, split: str, count: int) -> Iterator[dict]:
    """Yield pretraining documents with their quality."""
    for _ in range(count):
        quality = draw_quality(rng, world.config.clean_share)
        yield {"text": document(world, rng, quality), "quality": quality}


def sft_rows(world: World, rng: Random, split: str, count: int) -> Iterator[dict]:
    """Yield conversations of one to three turns; `family` and `task` are those of the last turn."""
    for _ in range(count):
        messages = []
        for _ in range(rng.choices([1, 2, 3], [0.8, 0.14, 0.06])[0]):
            task = draw_task(world, rng, split)
            messages += [turn("user", task.prompt), turn("assistant", demonstrate(task, rng, world.config))]
        yield {"messages": messages, "family": task.family, "task": task.to_json()}


def prefers_first(rng: Random, first: float, second: float, temperature: float) -> bool:
    """Draw a Bradley-Terry label: P(first) = sigmoid((first - second) / temperature)."""
    if temperature == 0:
        return first >= second
    return rng.random() < 1 / (1 + math.exp((second - first) / temperature))


def preference_rows(world: World, rng: Random, split: str, count: int) -> Iterator[dict]:
    """Yield preference pairs, with the gold rewards of both replies."""
    config = world.config
    while count:
        task = draw_task(world, rng, split)
        replies = [write(task, rng, Defects.draw(rng, config.pair_wrong, config.pair_manners)) for _ in range(2)]
        if replies[0] == replies[1]:
            continue
        golds = [gold_reward(task, reply).score for reply in replies]
        one, two = [g + config.length_bias * len(r.split()) for g, r in zip(golds, replies, strict=True)]
        first = prefers_first(rng, one, two, config.bt_temperature) ^ (rng.random() < config.label_noise)
        chosen, rejected = (0, 1) if first else (1, 0)
        yield {
            "prompt": [turn("user", task.prompt)],
            "chosen": [turn("assistant", replies[chosen])],
            "rejected": [turn("assistant", replies[rejected])],
            "family": task.family,
            "gold_chosen": golds[chosen],
            "gold_rejected": golds[rejected],
            "task": task.to_json(),
        }
        count -= 1


def prompt_rows(world: World, rng: Random, split: str, count: int) -> Iterator[dict]:
    """Yield prompts for PPO and GRPO."""
    for _ in range(count):
        task = draw_task(world, rng, split)
        yield {"prompt": [turn("user", task.prompt)], "family": task.family, "task": task.to_json()}


def item_rows(world: World, rng: Random, split: str, count: int) -> Iterator[dict]:
    """Yield `count` items of every family with distinct prompts, clustered by entity."""
    for family, make in families_of(world.config.families).items():
        tasks: dict[str, Task] = {}
        for _ in range(200 * count):  # small families may hold fewer distinct items than asked for
            task = make(world, rng, split, "test" if split == "test" else "train")
            tasks.setdefault(task.prompt, task)
            if len(tasks) == count:
                break
        for number, task in enumerate(tasks.values()):
            yield {
                "id": f"{family}-{number}",
                "family": family,
                "prompt": task.prompt,
                "target": task.answer,
                "cluster": f"{family}: {task.entity}",
                "task": task.to_json(),
            }


def eval_rows(world: World, rng: Random, split: str, count: int) -> Iterator[dict]:
    """Yield evaluation items, `count` in total over all families."""
    return item_rows(world, rng, split, count // len(families_of(world.config.families)))


def fewshot_rows(world: World, rng: Random, split: str, count: int) -> Iterator[dict]:
    """Yield few-shot examples of every family."""
    return item_rows(world, rng, split, FEWSHOT_PER_FAMILY)


# name -> (function that yields the rows, config field with the size of the train split, splits)
DATASETS: dict[str, tuple[Callable, str, tuple[str, ...]]] = {
    "pretrain": (pretrain_rows, "documents", SPLITS),
    "sft": (sft_rows, "demonstrations", SPLITS),
    "preference": (preference_rows, "pairs", SPLITS),
    "prompts": (prompt_rows, "prompts", SPLITS),
    "eval": (eval_rows, "items", ("validation", "test")),
    "fewshot": (fewshot_rows, "items", ("train",)),
}


def load(name: str, split: str, config: WorldConfig | None = None) -> Dataset:
    """Generate one data set of the world.

    Args:
        name: pretrain, sft, preference, prompts, eval or fewshot.
        split: train, validation or test; eval has no train, fewshot only train.
        config: config of the world; the defaults are those of recipes/tiny.

    Raises:
        KeyError: no such data set. ValueError: no such split, or a config out of range. UserError: no such family.
    """
    from datasets import Dataset

    rows, size, splits = DATASETS[name]
    if split not in splits:
        raise ValueError(f"tinyworld:{name} has the splits {', '.join(splits)}, got {split!r}")
    config = config or WorldConfig()
    families_of(config.families)
    world = World(config)
    count = getattr(config, size) if split == "train" or name == "eval" else HELD_OUT_ROWS
    return Dataset.from_list(
        list(rows(world, world.rng(name, split, *([config.draw] if config.draw else [])), split, count))
    )
