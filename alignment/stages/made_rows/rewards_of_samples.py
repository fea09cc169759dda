"""The reward by which a sample stage chooses replies: the weighted sum of a reward model and of functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import DatasetDict

from alignment.stages.shared.rollouts import RewardSources, load_rewards
from reward_models.calls import scores_of
from reward_models.protocol import Reward, Text


@dataclass
class SampleRewards(RewardSources):
    """The rewards of replies, or none: a sample stage may write replies without scores."""

    def __post_init__(self) -> None:
        if self.named():
            super().__post_init__()

    def named(self) -> list[str]:
        """The rewards that the recipe names: the model, then the functions."""
        return [*([self.reward_model_path] if self.reward_model_path else []), *self.reward_funcs]


class WeightedSum:
    """A `Reward`: the weighted sum of several; None where one that counts has no opinion."""

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float]):
        self.rewards, self.weights = list(rewards), list(weights)
        self.__name__ = "+".join(reward.__name__ for reward in rewards)

    def __call__(self, *, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float | None]:
        scores = [scores_of(reward, prompts, completions, columns) for reward in self.rewards]
        return [self._sum(values) for values in zip(*scores, strict=True)]

    def _sum(self, values: Sequence[float | None]) -> float | None:
        total = 0.0
        for value, weight in zip(values, self.weights, strict=True):
            if weight and value is None:
                return None
            total += weight * (value or 0.0)
        return total


def weighted_sum(sources: SampleRewards, splits: DatasetDict, batch_size: int) -> WeightedSum | None:
    """Load the rewards of a recipe; None if it names none.

    Raises:
        UserError: a reward cannot be loaded, or needs a column that the prompts lack.
    """
    from reward_models.learned import reward

    names = sources.named()
    if not names:
        return None
    rewards: list[Any] = [*load_rewards(sources.reward_funcs, splits)]
    if sources.reward_model_path:
        rewards.insert(0, reward(sources.reward_model_path, batch_size))
    return WeightedSum(rewards, sources.reward_weights or [1.0] * len(rewards))
