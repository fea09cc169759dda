"""tinyworld's gold reward as a reward function, to compare with the learned reward model that approximates it."""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from alignment.data.tinyworld import gold
from alignment.data.tinyworld.tasks import Task
from alignment.keyed_seeds import keyed_seed
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


def noisy_gold_reward(temperature: float = 0.1, seed: int = 0) -> Callable[..., list[float | None]]:
    """The gold score with noise, whose preferences between two replies are those of Bradley-Terry.

    The noise of a reply is Gumbel's, drawn by its prompt and text: the difference of two is logistic, so that the
    better of two replies is preferred with the probability sigmoid(difference / temperature).

    Args:
        temperature: 0 for none.
        seed: of the noise.
    """

    def noisy_gold(
        prompts: Sequence[Messages], completions: Sequence[Messages], task: Sequence[str] | None = None, **columns: Any
    ) -> list[float | None]:
        scores = gold_reward(completions, task)
        noise = [
            gumbel(keyed_seed(seed, prompt, completion))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return [None if score is None else score + temperature * one for score, one in zip(scores, noise, strict=True)]

    return noisy_gold


def gumbel(seed: int) -> float:
    """A draw from the standard Gumbel distribution."""
    uniform = Random(seed).random() or 0.5
    return -math.log(-math.log(uniform))
