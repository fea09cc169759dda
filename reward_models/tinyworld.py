"""tinyworld's gold reward as a reward function, to compare with the learned reward model that approximates it."""

from collections.abc import Sequence
from typing import Any

from alignment.data.tinyworld import gold
from alignment.data.tinyworld.tasks import Task
from reward_models.protocol import Messages


def gold_reward(
    completions: Sequence[Messages], task: Sequence[str] | None = None, **columns: Any
) -> list[float | None]:
    """The gold score in [-1, 1] of each reply; None if the data set has no column `task` with the right answers."""
    if task is None:
        return [None] * len(completions)
    replies = [completion[-1]["content"] for completion in completions]
    return [gold.gold_reward(Task.from_json(one), reply).score for one, reply in zip(task, replies, strict=True)]


def principle_reward(
    completions: Sequence[Messages],
    principle: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """The gold score in [-1, 1] of each reply by its row's principle; None where the principle does not apply."""
    if task is None or principle is None:
        return [None] * len(completions)
    replies = [completion[-1]["content"] for completion in completions]
    return [
        gold.principle_scores(Task.from_json(one), reply).get(name)
        for one, name, reply in zip(task, principle, replies, strict=True)
    ]
