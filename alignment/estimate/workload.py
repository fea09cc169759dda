"""The workload of a stage: its recipe keys, batches and optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from alignment.models.context_length import context_length
from alignment.stages import STAGES
from alignment.stages.shared.recipe_keys import recipe_key

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class TokenStatistics:
    """Lengths of the rows that a stage trains on, after filters and limits.

    Attributes:
        rows: documents, conversations, pairs or prompts.
        mean_tokens: per document, conversation, side of a pair (prompt and reply), or prompt.
        max_tokens: of the longest.
    """

    rows: int
    mean_tokens: float
    max_tokens: int


@dataclass(frozen=True)
class Batch:
    """The batches of a stage.

    Attributes:
        micro: rows per forward and backward pass.
        accumulation: passes per optimizer step.
        sides: sequences per row.
        length: tokens of the longest sequence.
        mean: mean tokens of a sequence, without padding.
        padded: mean tokens of a sequence, with the padding of its batch.
        evaluated: rows per pass without gradients.
        completion: maximum tokens of a sampled completion, part of `length` (PPO, GRPO).
        rollout: completions per rollout.
        group: completions per prompt.
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


@dataclass(frozen=True)
class Keys:
    """The recipe's keys as attributes; None for a key that the stage does not have."""

    configs: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        return recipe_key(self.configs, name)


def batch_of(stage: str, keys: Keys, config: PreTrainedConfig, rows: TokenStatistics) -> Batch:
    """The batches of a stage on rows of these lengths."""
    context = context_length(config) or rows.max_tokens
    limit = keys.max_length or (context if STAGES[stage].data == "text" else rows.max_tokens)
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
        sides=STAGES[stage].sequences,
        length=longest,
        mean=mean,
        padded=padded,
        evaluated=keys.per_device_eval_batch_size,
    )
    if not STAGES[stage].samples:
        return batch
    completion = keys.max_completion_length
    prompt = min(rows.max_tokens, context - completion)  # the stage drops longer prompts
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
    """Whether a stage fills rows of one length with several documents."""
    return STAGES[stage].data == "text" or bool(keys.packing)


def packed_rows(rows: TokenStatistics, length: int) -> int:
    """Rows of one length that hold all tokens if they are full; best-fit packing leaves a few percent empty."""
    return max(1, math.ceil(rows.rows * rows.mean_tokens / length))


def steps_of(stage: str, keys: Keys, rows: TokenStatistics, batch: Batch) -> tuple[int, float]:
    """Optimizer steps as transformers' Trainer counts them, and the rows that are trained on, including repeats.

    The rows of PPO and GRPO are the sampled completions. SFT's replay documents are taken to be as long as its
    conversations.
    """
    count = rows.rows
    if keys.replay_dataset_name:
        count += round(keys.replay_ratio * count)
    if is_packed(stage, keys):
        count = packed_rows(rows, batch.length)
    if STAGES[stage].samples:
        per_rollout = keys.steps_per_generation * keys.num_iterations  # micro-batches
        rollouts = count * batch.group / batch.rollout  # TRL drops prompts that do not fill a rollout
        micro_batches = (math.floor(rollouts) if STAGES[stage].fills_rollouts else math.ceil(rollouts)) * per_rollout
    elif keys.dataloader_drop_last:
        micro_batches = count // batch.micro
    else:
        micro_batches = math.ceil(count / batch.micro)
    per_epoch = max(1, math.ceil(micro_batches / batch.accumulation))
    steps = keys.max_steps if keys.max_steps > 0 else math.ceil(keys.num_train_epochs * per_epoch)
    if STAGES[stage].samples:
        return steps, math.ceil(steps * batch.accumulation / per_rollout) * batch.rollout
    return steps, min(steps * batch.micro * batch.accumulation, count * steps / per_epoch)
