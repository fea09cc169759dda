"""What a completion is worth: reward models and reward functions behind one interface."""

import asyncio
import inspect
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl import is_conversational

from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_critics import AdapterScorer, ModelScorer, load_scorer
from alignment.trainers.ppo_models import chunked
from alignment.trainers.ppo_rollout import Rollout


@dataclass
class Samples:
    """A rollout as reward functions see it."""

    rollout: Rollout
    rows: list[dict]
    completions: list  # text, or messages where the prompt is one
    columns: dict  # the data set's other columns, and TRL's trainer_state, log_metric and log_extra
    extras: dict[str, list]  # what reward functions say of each completion by log_extra, column -> values
    rewards: dict[str, Tensor] = field(default_factory=dict)  # name -> [B], NaN where it has no opinion
    scores: Tensor | None = None  # [B] their weighted sum, NaN where none of them has one


def read_completions(
    rollout: Rollout, rows: list[dict], tokenizer: PreTrainedTokenizerBase, told: dict[str, Any]
) -> Samples:
    """Decode a rollout for the reward functions.

    Args:
        told: what they are given beside the rows: trainer_state and log_metric, as in TRL.
    """
    completions = tokenizer.batch_decode(rollout.completion_ids, skip_special_tokens=True)
    if is_conversational({"prompt": rows[0]["prompt"]}):
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name not in ("prompt", "completion")}
    extras: dict[str, list] = {}

    def log_extra(column: str, values: list) -> None:
        if len(values) != len(rows):
            raise UserError(f"log_extra: {column} has the wrong length.", got=len(values), needed=len(rows))
        extras[column] = values

    return Samples(rollout, rows, completions, columns | told | {"log_extra": log_extra}, extras)


class ModelReward:
    """Scores token ids as they were sampled, end-of-sequence token included, without decoding them.

    Args:
        tokenizer: the model's own, where it has another vocabulary than the policy's; it then reads text.
    """

    def __init__(
        self, scorer: ModelScorer | AdapterScorer, name: str, batch_size: int, tokenizer: PreTrainedTokenizerBase | None
    ):
        self.scorer, self.name, self.batch_size, self.tokenizer = scorer, name, batch_size, tokenizer
        scorer.model.requires_grad_(False).eval()

    def __call__(self, samples: Samples) -> Tensor:
        rollout = samples.rollout
        if self.tokenizer is not None:
            rollout = as_text(samples, self.tokenizer)
        return chunked(lambda batch: self.scorer.outputs(batch)[:, -1:], rollout, self.batch_size)[:, 0]


def as_text(samples: Samples, tokenizer: PreTrainedTokenizerBase) -> Rollout:
    """Prompts and completions as another tokenizer writes them; only the last token of each row is asked for.

    Conversations go through its chat template, which ends replies. Plain text gets its end-of-sequence token, as in
    TRL's RewardTrainer, where the completion ended rather than being cut.
    """
    if is_conversational({"prompt": samples.rows[0]["prompt"]}):
        messages = [
            row["prompt"] + completion for row, completion in zip(samples.rows, samples.completions, strict=True)
        ]
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    else:
        pairs = zip(samples.rows, samples.completions, samples.rollout.terminated.tolist(), strict=True)
        ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        ids = [tokenizer(row["prompt"] + text)["input_ids"] + ends * ended for row, text, ended in pairs]
    width, device = max(map(len, ids)), samples.rollout.input_ids.device
    lengths = torch.tensor([len(row) for row in ids], device=device)
    rows = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=device)
    last = torch.ones(len(ids), 1, dtype=torch.bool, device=device)
    attention_mask = torch.arange(width, device=device)[None] >= width - lengths[:, None]
    return Rollout(rows, attention_mask, last, samples.rollout.terminated)


class FunctionReward:
    """A function with TRL's signature, sync or async; None for a completion it has no opinion on, which becomes NaN."""

    def __init__(self, function: Callable):
        self.function, self.name = function, getattr(function, "__name__", type(function).__name__)
        calls = (function, type(function).__call__)  # of an object, its class's
        self.is_async = any(inspect.iscoroutinefunction(one) for one in calls)

    def call(self, samples: Samples):
        """What the function returns: a list, or if it is async what gives one when awaited."""
        return self.function(
            prompts=[row["prompt"] for row in samples.rows],
            completions=samples.completions,
            completion_ids=samples.rollout.completion_ids,
            **samples.columns,
        )

    def read(self, rewards: list[float | None], samples: Samples) -> Tensor:
        """What it returned as numbers, (B,)."""
        if len(rewards) != len(samples.rows):
            raise UserError(
                f"Reward function {self.name!r} returned the wrong number of rewards.",
                got=len(rewards),
                needed=f"{len(samples.rows)}, one a completion",
            )
        for index, reward in enumerate(rewards):
            if reward is not None and not math.isfinite(reward):
                raise UserError(
                    f"Reward function {self.name!r} returned no number.",
                    got=f"{reward} for {samples.completions[index]!r}",
                    needed="a finite number, or None for a completion that it cannot judge",
                )
        values = [math.nan if reward is None else float(reward) for reward in rewards]
        return torch.tensor(values, device=samples.rollout.input_ids.device)


def score_samples(rewards: list[ModelReward | FunctionReward], samples: Samples) -> dict[str, Tensor]:
    """Each reward's opinion of a rollout, by name; async functions wait for their answers together."""

    async def gather(functions):
        return await asyncio.gather(*[function.call(samples) for function in functions])

    waiting = [one for one in rewards if isinstance(one, FunctionReward) and one.is_async]
    answers = []
    if waiting:
        with ThreadPoolExecutor(1) as thread:  # of its own: a notebook's thread has a running loop
            answers = thread.submit(asyncio.run, gather(waiting)).result()
    answered = dict(zip(map(id, waiting), answers, strict=True))
    scores = {}
    for reward in rewards:
        if isinstance(reward, ModelReward):
            scores[reward.name] = reward(samples)
        else:
            answer = answered[id(reward)] if reward.is_async else reward.call(samples)
            scores[reward.name] = reward.read(answer, samples)
    return scores


def make_rewards(
    reward_funcs, tokenizers, policy: nn.Module, own_tokenizer: PreTrainedTokenizerBase, args: PPOConfig
) -> list[ModelReward | FunctionReward]:
    """The rewards of one or several models, paths and functions, under distinct names.

    Args:
        tokenizers: of the models, in the order of reward_funcs; None: the one beside a checkpoint, else the policy's.
    """
    reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    tokenizers = tokenizers if isinstance(tokenizers, list) else [tokenizers] * len(reward_funcs)
    if len(tokenizers) != len(reward_funcs):
        raise UserError(
            "reward_processing_classes does not fit reward_funcs.", got=len(tokenizers), needed=len(reward_funcs)
        )
    rewards = []
    for index, (item, tokenizer) in enumerate(zip(reward_funcs, tokenizers, strict=True)):
        if isinstance(item, str | nn.Module):
            scorer = load_scorer(item, policy, f"reward_{index}")
            tokenizer = tokenizer or _tokenizer_beside(item)
            if tokenizer is not None and tokenizer.get_vocab() == own_tokenizer.get_vocab():
                tokenizer = None
            scorer.model.to(args.device)
            rewards.append(ModelReward(scorer, _name(item), args.per_device_eval_batch_size, tokenizer))
        else:
            rewards.append(FunctionReward(item))
    names = [reward.name for reward in rewards]
    for index, reward in enumerate(rewards):
        if names.count(reward.name) > 1:
            reward.name = f"{reward.name}_{index}"
    return rewards


def _tokenizer_beside(model: str | nn.Module) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint given by path or hub id; none where a folder has none."""
    if not isinstance(model, str) or (Path(model).is_dir() and not (Path(model) / "tokenizer_config.json").is_file()):
        return None
    return load_tokenizer(model)


def _name(model: str | nn.Module) -> str:
    path = model if isinstance(model, str) else model.config.name_or_path
    path = path.rstrip("/").removesuffix("/checkpoint")  # of a stage: runs/tiny/reward
    return path.split("/")[-1] or type(model).__name__


def combine(rewards: list[Tensor], weights: list[float] | None) -> Tensor:
    """Weighted sum over the rewards, NaN where none of them has an opinion. R times [B] -> [B]."""
    stacked = torch.stack(rewards, 1)
    if weights is not None:
        counts = stacked.new_tensor(weights) != 0  # a reward of weight 0 is only watched
        stacked = (stacked * stacked.new_tensor(weights))[:, counts]
    return stacked.nansum(1).masked_fill(stacked.isnan().all(1), float("nan"))
