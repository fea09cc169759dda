"""What a stage works on: its keys, its batches and its optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from alignment.models.context_length import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SIDES = {"reward": 2, "dpo": 2}  # sequences of a row
SAMPLING = ("ppo", "grpo")  # stages that train on what they sample


@dataclass(frozen=True)
class TokenStatistics:
    """Lengths of the rows that a stage trains on, after filters and limits.

    Attributes:
        rows: documents, conversations, pairs or prompts.
        mean_tokens: of a document, of a conversation, of a prompt with one reply (mean over both), or of a prompt.
        max_tokens: the longest likewise.
    """

    rows: int
    mean_tokens: float
    max_tokens: int


@dataclass(frozen=True)
class Batch:
    """What a stage works on at a time.

    Attributes:
        micro: rows of a forward and backward pass.
        accumulation: of these in an optimizer step.
        sides: sequences of a row.
        length: tokens of the longest sequence.
        mean: tokens of a sequence on average, padding aside.
        padded: tokens of a sequence on average, with what its batch pads it to.
        evaluated: rows of a pass without gradients.
        completion: of `length`, what PPO and GRPO sample at most.
        rollout: completions sampled at a time.
        group: of these of a prompt.
    """

    micro: int
    accumulation: int
    sides: int
    length: int
    mean: float
    padded: float
    evaluated: int
    completion: int = 0
    rollout: int = 0
    group: int = 1


class Keys:
    """The recipe's keys, whichever dataclass of the stage has them; None for a key that the stage does not have."""

    def __init__(self, configs: tuple[Any, ...]):
        self._values = {entry.name: getattr(config, entry.name) for config in configs for entry in fields(config)}

    def __getattr__(self, name: str) -> Any:
        return self._values.get(name)


def batch_of(stage: str, keys: Keys, config: PreTrainedConfig, rows: TokenStatistics) -> Batch:
    context = context_length(config) or rows.max_tokens
    limit = keys.max_length or (context if stage == "pretrain" else rows.max_tokens)
    longest = min(rows.max_tokens, limit)
    mean = min(rows.mean_tokens, longest)
    padded = (mean + longest) / 2
    if keys.per_device_train_batch_size == 1 or keys.train_sampling_strategy == "group_by_length":
        padded = mean
    if is_packed(stage, keys):
        longest, padded = limit, limit
        mean = min(limit, rows.rows * rows.mean_tokens / packed_rows(rows, limit))
    batch = Batch(
        micro=keys.per_device_train_batch_size,
        accumulation=keys.gradient_accumulation_steps,
        sides=SIDES.get(stage, 1),
        length=longest,
        mean=mean,
        padded=padded,
        evaluated=keys.per_device_eval_batch_size,
    )
    if stage not in SAMPLING:
        return batch
    completion = keys.max_completion_length
    prompt = min(rows.max_tokens, context - completion)  # the stage leaves longer prompts out
    mean = min(rows.mean_tokens, prompt)
    return replace(
        batch,
        length=prompt + completion,
        mean=mean + completion,
        padded=(mean + prompt) / 2 + completion,
        completion=completion,
        rollout=keys.per_device_train_batch_size * keys.steps_per_generation,
        group=keys.num_generations or 1,
    )


def is_packed(stage: str, keys: Keys) -> bool:
    return stage == "pretrain" or (stage == "sft" and bool(keys.packing))


def packed_rows(rows: TokenStatistics, length: int) -> int:
    """Rows of one length that hold all tokens, were they full; best-fit packing leaves a few percent empty."""
    return max(1, math.ceil(rows.rows * rows.mean_tokens / length))


def steps_of(stage: str, keys: Keys, rows: TokenStatistics, batch: Batch) -> tuple[int, float]:
    """Optimizer steps as transformers' Trainer counts them, and the rows that are trained on, repeats included.

    Of PPO and GRPO the rows are the completions sampled. SFT's replay is taken to be as long as the conversations.
    """
    count = rows.rows
    if stage == "sft" and keys.replay_dataset_name:
        count += round(keys.replay_ratio * count)
    if is_packed(stage, keys):
        count = packed_rows(rows, batch.length)
    if stage in SAMPLING:
        per_rollout = keys.steps_per_generation * keys.num_iterations  # micro-batches
        rollouts = count * batch.group / batch.rollout  # TRL leaves prompts out that do not fill one
        micro_batches = (math.ceil(rollouts) if stage == "ppo" else math.floor(rollouts)) * per_rollout
    elif keys.dataloader_drop_last:
        micro_batches = count // batch.micro
    else:
        micro_batches = math.ceil(count / batch.micro)
    per_epoch = max(1, math.ceil(micro_batches / batch.accumulation))
    steps = keys.max_steps if keys.max_steps > 0 else math.ceil(keys.num_train_epochs * per_epoch)
    if stage in SAMPLING:
        return steps, math.ceil(steps * batch.accumulation / per_rollout) * batch.rollout
    return steps, min(steps * batch.micro * batch.accumulation, count * steps / per_epoch)
