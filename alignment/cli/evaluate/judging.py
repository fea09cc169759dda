"""Rewards and judges by their names on the command line."""

from __future__ import annotations

import inspect
from pathlib import Path
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
    """The reward of a function's name or a reward model's checkpoint.

    Args:
        batch_size, device, dtype: for a checkpoint, as for `reward_models.learned.reward`.

    Raises:
        UserError: the function or reward model does not exist, or the function is async.
    """
    from alignment.errors import UserError
    from reward_models.functions import load_function
    from reward_models.learned import reward

    if Path(name).exists() or ":" not in name.partition("?")[0]:
        return reward(name, batch_size, device, dtype)
    function = load_function(name)
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{name} is async", expected="a plain function", fix="wrap it with asyncio.run")
    return function


def load_judge(name: str, batch_size: int) -> Reward | Comparer:
    """The judge of a name: a comparer if it has `compare` (a class is called first), otherwise a reward."""
    found = load_reward(name, batch_size)
    if inspect.isclass(found) and hasattr(found, "compare"):
        made: Comparer = found()
        return made
    return found
