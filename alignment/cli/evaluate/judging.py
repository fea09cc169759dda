"""Rewards and judges by their names on the command line: help texts, and loading that imports nothing before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward_models.protocol import Comparer, Reward

REWARD_HELP = (
    "a reward model's checkpoint (folder or hub id), or a reward as in recipes: file.py:name or package.module:name, "
    "with options ?key=value&key=value"
)
JUDGE_HELP = (
    f"{REWARD_HELP}, whose scores are compared; or a judge of two replies, which is asked in both positions: "
    "reward_models.local_judge:local?checkpoint=PATH, reward_models.api_judge:api?base_url=URL&model=NAME, or your own "
    "class with a method compare"
)


def load_reward(name: str, batch_size: int, device: str | None = None, dtype: str = "auto") -> Reward:
    """The reward of a name, see `reward_models.judges.named_judges.load_reward`."""
    from reward_models.judges import named_judges

    return named_judges.load_reward(name, batch_size, device, dtype)


def load_judge(name: str, batch_size: int) -> Reward | Comparer:
    """The judge of a name, see `reward_models.judges.named_judges.load_judge`."""
    from reward_models.judges import named_judges

    return named_judges.load_judge(name, batch_size)
