"""What a completion is worth: reward models and reward functions behind one interface."""

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from trl import is_conversational

from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from alignment.tokenization.reward_rows import Prompt, ending_of_tokens, padding_id, reward_rows
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.critics import AdapterScorer, ModelScorer, load_scorer
from alignment.trainers.ppo.rollout import Rollout, encode_prompts

logger = logging.getLogger(__name__)


@dataclass
class Samples:
    """A rollout as reward functions see it.

    Attributes:
        completions: text, or messages if the prompt is a list of messages.
        columns: the data set's other columns, and TRL's trainer_state, log_metric and log_extra.
        extras: what reward functions record by log_extra, column -> a value per completion.
    """

    rollout: Rollout
    rows: list[dict[str, Any]]
    completions: list[Any]
    columns: dict[str, Any]
    extras: dict[str, list[Any]]

    def row(self, index: int) -> "Samples":
        """One completion alone, without rewards and extras."""
        columns = {name: [value[index]] if isinstance(value, list) else value for name, value in self.columns.items()}
        rows, completions = [self.rows[index]], [self.completions[index]]
        return Samples(self.rollout.row(index), rows, completions, columns | {"log_extra": lambda *_: None}, {})


@dataclass
class ScoredSamples(Samples):
    """Samples with their rewards.

    Attributes:
        rewards: reward name -> [B], NaN for completions that the reward does not score.
        scores: [B], their weighted sum, NaN for completions that no reward scores.
    """

    rewards: dict[str, Tensor]
    scores: Tensor


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
            raise UserError(f"log_extra: {column} has the wrong length.", got=len(values), expected=len(rows))
        extras[column] = values

    return Samples(rollout, rows, completions, columns | told | {"log_extra": log_extra}, extras)


@dataclass(frozen=True)
class Reading:
    """How a reward model reads completions.

    Attributes:
        tokenizer: the model's own.
        pad_token_id: the token that the score is never read at.
        ending: what is put after sampled ids, in place of the token that ended them, to make the row that the model was
            trained on; None: it reads the decoded text through its own tokenizer and chat template.
        knows_tokens: whether its vocabulary is the policy's.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_token_id: int | None
    ending: list[int] | None
    knows_tokens: bool

    def rows(self, samples: Samples) -> list[list[int]]:
        """A row of token ids for each completion; one that was cut is read as if it had ended there."""
        if self.ending is None:
            return reward_rows(self.tokenizer, [row["prompt"] for row in samples.rows], samples.completions)
        ended = samples.rollout.terminated.tolist()
        rows = zip(samples.rollout.token_ids, ended, strict=True)
        return [(row[:-1] if is_ended else row) + self.ending for row, is_ended in rows]


class ModelReward:
    """Scores completions where the reward model was trained to be read; NaN for rows longer than its context.

    Args:
        reading: None: the sampled ids are the rows that it was trained on, and none of them is for padding.
    """

    def __init__(self, scorer: ModelScorer | AdapterScorer, name: str, batch_size: int, reading: Reading | None = None):
        self.scorer, self.name, self.batch_size, self.reading = scorer, name, batch_size, reading
        scorer.model.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Tensor:
        rows = self.reading.rows(samples) if self.reading else samples.rollout.token_ids
        pad_token_id = self.reading.pad_token_id if self.reading else None
        device, context = samples.rollout.input_ids.device, self.scorer.context or math.inf
        scores = torch.full((len(rows),), math.nan, device=device)
        fitting = [index for index, row in enumerate(rows) if len(row) <= context]
        if len(fitting) < len(rows):
            logger.warning(
                "%s: %d of %d completions not scored: longer than its %d positions",
                *(self.name, len(rows) - len(fitting), len(rows), context),
            )
        fitting.sort(key=lambda index: -len(rows[index]))
        for start in range(0, len(fitting), self.batch_size):
            batch = fitting[start : start + self.batch_size]
            padded = left_padded([rows[index] for index in batch], device)
            scores[batch] = self.scorer.scores(padded, pad_token_id)
        return scores


def left_padded(rows: list[list[int]], device: torch.device) -> dict[str, Tensor]:
    """Rows of token ids as one batch: input_ids and attention_mask, (B, L)."""
    width = max(map(len, rows))
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device),
        "attention_mask": torch.arange(width, device=device)[None] >= width - lengths[:, None],
    }


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
                expected=f"{len(samples.rows)}, one a completion",
            )
        for index, reward in enumerate(rewards):
            if reward is not None and not math.isfinite(reward):
                raise UserError(
                    f"Reward function {self.name!r} returned no number.",
                    got=f"{reward} for {samples.completions[index]!r}",
                    expected="a finite number, or None for a completion that it cannot judge",
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
    reward_funcs,
    tokenizers,
    policy: nn.Module,
    own_tokenizer: PreTrainedTokenizerBase,
    args: PPOConfig,
    prompts: Sequence[Prompt],
) -> list[ModelReward | FunctionReward]:
    """The rewards of one or several models, paths and functions, under distinct names.

    Args:
        tokenizers: of the models, in the order of reward_funcs; None: the one beside a checkpoint, else the policy's.
        prompts: some of those to come, on which it is tried out how the models read them.
    """
    reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    tokenizers = tokenizers if isinstance(tokenizers, list) else [tokenizers] * len(reward_funcs)
    if len(tokenizers) != len(reward_funcs):
        raise UserError(
            "reward_processing_classes does not fit reward_funcs.", got=len(tokenizers), expected=len(reward_funcs)
        )
    rewards = []
    for index, (item, tokenizer) in enumerate(zip(reward_funcs, tokenizers, strict=True)):
        if isinstance(item, str | nn.Module):
            scorer = load_scorer(item, policy, f"reward_{index}")
            tokenizer = tokenizer or _tokenizer_beside(item) or own_tokenizer
            scorer.model.to(args.device)
            config = scorer.model.config if isinstance(scorer, ModelScorer) else None
            reading = make_reading(tokenizer, config, own_tokenizer, prompts)
            rewards.append(ModelReward(scorer, _name(item), args.per_device_eval_batch_size, reading))
        else:
            rewards.append(FunctionReward(item))
    names = [reward.name for reward in rewards]
    for index, reward in enumerate(rewards):
        if names.count(reward.name) > 1:
            reward.name = f"{reward.name}_{index}"
    return rewards


def make_reading(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig | None,
    own_tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
) -> Reading:
    """How a reward model with this tokenizer reads what a policy with `own_tokenizer` samples.

    Sampled ids are read as they are if the two vocabularies are one and the model's template writes the prompts, and
    the beginnings of replies, as the policy reads them; otherwise the completions are read as text.

    Args:
        config: the reward model's; None if it is an adapter on the policy's base.
    """
    ending, same = None, tokenizer.get_vocab() == own_tokenizer.get_vocab()
    if same:
        ids = encode_prompts([{"prompt": prompt} for prompt in prompts], own_tokenizer)
        ending = ending_of_tokens(tokenizer, prompts, ids)
    return Reading(tokenizer, padding_id(config, tokenizer), ending, same)


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
