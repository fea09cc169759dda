"""tinyworld's gold reward as a reward function: to watch what the learned reward model stands in for."""

from alignment.data.tinyworld import gold
from alignment.data.tinyworld.tasks import Task


def gold_reward(completions: list[list[dict]], task: list[str] | None = None, **columns) -> list[float | None]:
    """The gold score in [-1, 1] of each reply, None where the data set has no column `task` to tell the truth by."""
    if task is None:
        return [None] * len(completions)
    replies = [completion[-1]["content"] for completion in completions]
    return [gold.gold_reward(Task.from_json(one), reply).score for one, reply in zip(task, replies, strict=True)]
