"""Rewards and judges by the names that the command line takes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.generate import Reward
    from eval.winrate import PairwiseJudge

REWARD_HELP = "a reward model's checkpoint (folder or hub id), or a function: file.py:name or package.module:name"

JUDGE_HELP = (
    f"{REWARD_HELP}, whose scores are compared; or of a class with a method compare(prompts, a, b), which is asked in "
    "both positions"
)


def load_reward(name: str, batch_size: int) -> Reward:
    """A reward with TRL's signature, of a function's name or a reward model's checkpoint.

    Raises:
        UserError: there is no such function or reward model, or it is async.
    """
    from alignment.errors import UserError
    from reward_models.functions import load_function

    if Path(name).exists() or ":" not in name:
        return _reward_model(name, batch_size)
    function = load_function(name)
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{name} is async", needed="a plain function", mend="wrap it with asyncio.run")
    return function


def load_judge(name: str, batch_size: int) -> Reward | PairwiseJudge:
    """A judge of two replies where the name is of a class with `compare`, else a reward, whose scores are compared."""
    found = load_reward(name, batch_size)
    return found() if inspect.isclass(found) and hasattr(found, "compare") else found


def _reward_model(checkpoint: str, batch_size: int) -> Reward:
    """A sequence classifier that reads whole conversations through its own chat template."""
    import torch

    from alignment.errors import UserError
    from alignment.models.loading import load_tokenizer, load_trainable
    from alignment.pipeline.parents import check_outside
    from reward_models.pairwise import score_conversations

    check_outside("--reward", checkpoint, "sequence-classification", [])
    model = load_trainable(checkpoint, "sequence-classification").to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(checkpoint)
    if not tokenizer.chat_template:
        raise UserError("the reward model's tokenizer has no chat template", got=checkpoint)

    def reward(prompts, completions, **columns) -> list[float]:
        talks = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return score_conversations(model, tokenizer, talks, batch_size).tolist()

    return reward
