"""Rewards and judges by the names that the command line takes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward_models.protocol import Comparer, Reward

REWARD_HELP = (
    "a reward model's checkpoint (folder or hub id), or a reward as recipes name it: file.py:name or "
    "package.module:name, with options ?key=value&key=value"
)
JUDGE_HELP = (
    f"{REWARD_HELP}. Scores are compared; a judge of two replies (reward_models.local_judge:local?checkpoint=PATH, "
    "reward_models.api_judge:api?base_url=URL&model=NAME, or a class of your own with a method compare) is asked in "
    "both positions"
)


def load_reward(name: str, batch_size: int, device: str | None = None, dtype: str = "auto") -> Reward:
    """A reward with TRL's signature, of a function's name or a reward model's checkpoint.

    Args:
        batch_size, device, dtype: of a checkpoint, as `reward_models.learned.reward` takes them.

    Raises:
        UserError: there is no such function or reward model, or it is async.
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
