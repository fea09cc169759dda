"""Rewards of completions: reward models and reward functions behind one interface."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from trl import is_conversational

from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from alignment.tokenization.reward_rows import Prompt, ending_of_tokens, padding_id, reward_rows
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.models import Model
from alignment.trainers.ppo.rollout import Rollout, encode_prompts
from alignment.trainers.ppo.scorers import AdapterScorer, ModelScorer, load_scorer
from reward_models.calls import RESERVED, AsyncReward, checked, distinct, finished

logger = logging.getLogger(__name__)
PROBED_PROMPTS = 8  # prompts on which to find out how a reward model reads them
RewardFunc: TypeAlias = str | Model | Callable[..., Any]


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
    rollout: Rollout, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, extra: dict[str, Any]
) -> Samples:
    """Decode a rollout for the reward functions.

    Args:
        extra: further arguments of the reward functions: trainer_state and log_metric, as in TRL.
    """
    completions = tokenizer.batch_decode(rollout.completion_ids, skip_special_tokens=True)
    if is_conversational({"prompt": rows[0]["prompt"]}):
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    own = [name for name in rows[0] if name not in ("prompt", "completion", *RESERVED)]
    columns = {name: [row[name] for row in rows] for name in own}
    extras: dict[str, list[Any]] = {}
    return Samples(rollout, rows, completions, columns | extra | {"log_extra": extras.__setitem__}, extras)


@dataclass(frozen=True)
class Reading:
    """How a reward model reads completions.

    Attributes:
        tokenizer: tokenizer of the reward model.
        pad_token_id: the token at which the score is never read.
        ending: token ids that replace the token that ended the sampled ids, to make the row that the model was trained
            on; None if the model reads the decoded text through its own tokenizer and chat template.
        knows_tokens: whether the model has the policy's vocabulary.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_token_id: int | None
    ending: list[int] | None
    knows_tokens: bool

    def rows(self, samples: Samples) -> list[list[int]]:
        """A row of token ids per completion; a truncated completion is read as if it had ended."""
        if self.ending is None:
            return reward_rows(self.tokenizer, [row["prompt"] for row in samples.rows], samples.completions)
        ended = samples.rollout.terminated.tolist()
        rows = zip(samples.rollout.token_ids, ended, strict=True)
        return [(row[:-1] if is_ended else row) + self.ending for row, is_ended in rows]


class ModelReward:
    """Scores completions at the token at which the reward model was trained; NaN for rows longer than its context.

    Args:
        reading: None if the sampled ids are the rows that the model was trained on, without a padding token.
    """

    def __init__(self, scorer: ModelScorer | AdapterScorer, name: str, batch_size: int, reading: Reading | None = None):
        self.scorer, self.name, self.batch_size, self.reading = scorer, name, batch_size, reading
        scorer.model.requires_grad_(False).eval()

    @property
    def knows_tokens(self) -> bool:
        """Whether the reward model has the policy's vocabulary."""
        return self.reading is None or self.reading.knows_tokens

    @torch.no_grad()
    def __call__(self, samples: Samples) -> Tensor:
        rows = self.reading.rows(samples) if self.reading else samples.rollout.token_ids
        pad_token_id = self.reading.pad_token_id if self.reading else None
        device, context = samples.rollout.input_ids.device, self.scorer.context or math.inf
        scores = torch.full((len(rows),), math.nan, device=device)
        fitting = [index for index, row in enumerate(rows) if len(row) <= context]
        if len(fitting) < len(rows):
            logger.warning(
                "%s: %d of %d completions not scored, because they are longer than its %d positions",
                *(self.name, len(rows) - len(fitting), len(rows), context),
            )
        fitting.sort(key=lambda index: -len(rows[index]))
        for start in range(0, len(fitting), self.batch_size):
            batch = fitting[start : start + self.batch_size]
            padded = left_padded([rows[index] for index in batch], device)
            scores[batch] = self.scorer.scores(padded, pad_token_id)
        return scores


def left_padded(rows: list[list[int]], device: torch.device) -> dict[str, Tensor]:
    """Pad rows of token ids to one batch: input_ids and attention_mask, [B, L]."""
    width = max(map(len, rows))
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device),
        "attention_mask": torch.arange(width, device=device)[None] >= width - lengths[:, None],
    }


class FunctionReward:
    """A function with TRL's signature, sync or async. It may return None for a completion, which becomes NaN."""

    def __init__(self, function: Callable[..., Any]):
        self.function = checked(function)
        self.is_async = isinstance(self.function, AsyncReward)

    @property
    def name(self) -> str:
        return self.function.__name__

    @name.setter
    def name(self, name: str) -> None:
        self.function.__name__ = name

    def call(self, samples: Samples) -> Any:
        """Call the function: returns a list of rewards, or an awaitable of one if the function is async."""
        return self.function(
            prompts=[row["prompt"] for row in samples.rows],
            completions=samples.completions,
            completion_ids=samples.rollout.completion_ids,
            **samples.columns,
        )

    def read(self, rewards: list[float | None], samples: Samples) -> Tensor:
        """Convert the returned rewards. -> [B], NaN for None."""
        values = [math.nan if reward is None else reward for reward in rewards]
        return torch.tensor(values, device=samples.rollout.input_ids.device)


Reward: TypeAlias = ModelReward | FunctionReward


def score_samples(rewards: Sequence[Reward], samples: Samples, weights: list[float] | None = None) -> ScoredSamples:
    """Score a rollout by each reward; async functions wait for their answers together.

    Args:
        weights: weights of the rewards in the sum; None: 1 each.
    """

    async def gather(functions: list[FunctionReward]) -> list[Any]:
        return await asyncio.gather(*[function.call(samples) for function in functions])

    waiting = [reward for reward in rewards if isinstance(reward, FunctionReward) and reward.is_async]
    answers: list[Any] = []
    if waiting:
        answers = finished(gather(waiting))
    answered = dict(zip(map(id, waiting), answers, strict=True))
    scores = {}
    for reward in rewards:
        if isinstance(reward, ModelReward):
            scores[reward.name] = reward(samples)
        else:
            answer = answered[id(reward)] if reward.is_async else reward.call(samples)
            scores[reward.name] = reward.read(answer, samples)
    return ScoredSamples(**vars(samples), rewards=scores, scores=combine(list(scores.values()), weights))


def make_rewards(
    reward_funcs: RewardFunc | list[RewardFunc],
    tokenizers: PreTrainedTokenizerBase | list[PreTrainedTokenizerBase | None] | None,
    policy: Model,
    own_tokenizer: PreTrainedTokenizerBase,
    args: PPOConfig,
    prompts: Sequence[Prompt],
) -> list[Reward]:
    """Make rewards with distinct names from models, paths of models, and functions.

    Args:
        tokenizers: tokenizers of the models, in the order of reward_funcs; None: the tokenizer in the checkpoint, else
            the policy's.
        prompts: prompts on which to find out how the models read sampled ids.
    """
    reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    tokenizers = tokenizers if isinstance(tokenizers, list) else [tokenizers] * len(reward_funcs)
    if len(tokenizers) != len(reward_funcs):
        raise UserError(
            "reward_processing_classes does not fit reward_funcs.", got=len(tokenizers), expected=len(reward_funcs)
        )
    rewards: list[Reward] = []
    for index, (item, tokenizer) in enumerate(zip(reward_funcs, tokenizers, strict=True)):
        if isinstance(item, str | nn.Module):
            scorer = load_scorer(item, policy, f"reward_{index}")
            tokenizer = tokenizer or _tokenizer_of(item) or own_tokenizer
            scorer.model.to(args.device)
            config = scorer.model.config if isinstance(scorer, ModelScorer) else None
            reading = make_reading(tokenizer, config, own_tokenizer, prompts)
            rewards.append(ModelReward(scorer, _name(item), args.per_device_eval_batch_size, reading))
        else:
            rewards.append(FunctionReward(item))
    for reward, name in zip(rewards, distinct([reward.name for reward in rewards]), strict=True):
        reward.name = name
    return rewards


def first_prompts(dataset: Dataset | dict[str, Dataset] | None) -> list[Prompt]:
    """The first prompts of a data set, or of the first of several data sets; none without a data set."""
    rows: Any = next(iter(dataset.values())) if isinstance(dataset, dict) else dataset
    count = 0 if rows is None else min(PROBED_PROMPTS, len(rows))
    return [rows[index]["prompt"] for index in range(count)]


def make_reading(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig | None,
    own_tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
) -> Reading:
    """How a reward model with this tokenizer reads the completions of a policy with `own_tokenizer`.

    The model reads the sampled ids if the vocabularies are equal and its template writes prompts and the beginnings of
    replies as the policy reads them; otherwise it reads the completions as text.

    Args:
        config: config of the reward model; None if it is an adapter on the policy's base.
    """
    ending, same = None, tokenizer.get_vocab() == own_tokenizer.get_vocab()
    if same:
        ids = encode_prompts([{"prompt": prompt} for prompt in prompts], own_tokenizer)
        ending = ending_of_tokens(tokenizer, prompts, ids)
    return Reading(tokenizer, padding_id(config, tokenizer), ending, same)


def _tokenizer_of(model: str | Model) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint given by path or hub id; None if the folder has no tokenizer."""
    if not isinstance(model, str) or (Path(model).is_dir() and not (Path(model) / "tokenizer_config.json").is_file()):
        return None
    return load_tokenizer(model)


def _name(model: str | Model) -> str:
    path = model if isinstance(model, str) else model.config.name_or_path
    path = path.rstrip("/").removesuffix("/checkpoint")  # a stage's checkpoint: runs/tiny/reward/checkpoint
    return path.split("/")[-1] or type(model).__name__


def combine(rewards: list[Tensor], weights: list[float] | None) -> Tensor:
    """Weighted sum over the rewards, NaN for completions that no reward scores. R times [B] -> [B]."""
    stacked = torch.stack(rewards, 1)
    if weights is not None:
        counts = stacked.new_tensor(weights) != 0  # a reward of weight 0 is only logged
        stacked = (stacked * stacked.new_tensor(weights))[:, counts]
    return stacked.nansum(1).masked_fill(stacked.isnan().all(1), float("nan"))
