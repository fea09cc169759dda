"""What a completion is worth: reward models and reward functions behind one interface."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl import is_conversational

from alignment.errors import UserError
from alignment.trainers.ppo_models import chunked, head_outputs, load_scorer
from alignment.trainers.ppo_rollout import Rollout


@dataclass
class Samples:
    """A rollout as reward functions see it."""

    rollout: Rollout
    rows: list[dict]
    completions: list  # text, or messages where the prompt is one
    columns: dict  # the data set's other columns, and trainer_state
    rewards: dict[str, Tensor] = field(default_factory=dict)  # name -> [B], NaN where it has no opinion
    scores: Tensor | None = None  # [B] their weighted sum, NaN where none of them has one


def read_completions(rollout: Rollout, rows: list[dict], tokenizer: PreTrainedTokenizerBase, trainer_state) -> Samples:
    """Decode a rollout for the reward functions."""
    completions = tokenizer.batch_decode(rollout.completion_ids, skip_special_tokens=True)
    if is_conversational({"prompt": rows[0]["prompt"]}):
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name not in ("prompt", "completion")}
    return Samples(rollout, rows, completions, columns | {"trainer_state": trainer_state})


class ModelReward:
    """Scores token ids as they were sampled, end-of-sequence token included, without decoding them."""

    def __init__(self, model: nn.Module, batch_size: int, device: torch.device):
        self.model = model.requires_grad_(False).eval().to(device)
        self.batch_size = batch_size
        path = model.config.name_or_path.rstrip("/").removesuffix("/checkpoint")  # of a stage: runs/tiny/reward
        self.name = path.split("/")[-1] or type(model).__name__

    def __call__(self, samples: Samples) -> Tensor:
        return chunked(lambda batch: head_outputs(self.model, batch)[:, -1:], samples.rollout, self.batch_size)[:, 0]


class FunctionReward:
    """A function with TRL's signature; None for a completion it has no opinion on, which becomes NaN."""

    def __init__(self, function: Callable):
        self.function, self.name = function, getattr(function, "__name__", type(function).__name__)

    def __call__(self, samples: Samples) -> Tensor:
        rewards = self.function(
            prompts=[row["prompt"] for row in samples.rows],
            completions=samples.completions,
            completion_ids=samples.rollout.completion_ids,
            **samples.columns,
        )
        if len(rewards) != len(samples.rows):
            raise UserError(
                f"Reward function {self.name!r} returned the wrong number of rewards.",
                got=len(rewards),
                needed=f"{len(samples.rows)}, one a completion",
            )
        values = [float("nan") if reward is None else float(reward) for reward in rewards]
        return torch.tensor(values, device=samples.rollout.input_ids.device)


def make_rewards(reward_funcs, batch_size: int, device: torch.device) -> list[ModelReward | FunctionReward]:
    """The rewards of one or several models, paths and functions, under distinct names."""
    if not isinstance(reward_funcs, list):
        reward_funcs = [reward_funcs]
    rewards = [
        ModelReward(load_scorer(item), batch_size, device)
        if isinstance(item, str | nn.Module)
        else FunctionReward(item)
        for item in reward_funcs
    ]
    names = [reward.name for reward in rewards]
    for index, reward in enumerate(rewards):
        if names.count(reward.name) > 1:
            reward.name = f"{reward.name}_{index}"
    return rewards


def combine(rewards: list[Tensor], weights: list[float] | None) -> Tensor:
    """Weighted sum over the rewards, NaN where none of them has an opinion. R times [B] -> [B]."""
    stacked = torch.stack(rewards, 1)
    weighted = stacked if weights is None else stacked * stacked.new_tensor(weights)
    return weighted.nansum(1).masked_fill(stacked.isnan().all(1), float("nan"))
