"""Rewards and judges by their names on the command line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        UserError: the function or reward model does not exist, or the function is no reward function.
    """
    from reward_models import functions, learned

    found: Any = functions.load_reward(name) if _is_function(name) else learned.reward(name, batch_size, device, dtype)
    return found


def load_judge(name: str, batch_size: int) -> Reward | Comparer:
    """The judge of a name: a comparer if it has `compare` (a class is called first), otherwise a reward."""
    from reward_models.calls import checked
    from reward_models.functions import load_function
    from reward_models.user_code import user_code

    if not _is_function(name):
        return load_reward(name, batch_size)
    found: Any = load_function(name)
    if not hasattr(found, "compare"):
        found = checked(found)
        return found
    if inspect.isclass(found):
        with user_code(f"{name} cannot make its judge.", fix="correct its __init__, or give it options after a ?"):
            found = found()
    comparer: Comparer = found
    return comparer


def _is_function(name: str) -> bool:
    return ":" in name.partition("?")[0] and not Path(name).exists()
