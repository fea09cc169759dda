"""Find the training rows of an optimizer step, and describe them."""

import math
from copy import copy
from itertools import islice
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedTokenizerBase, TrainingArguments

from alignment.trainers.ppo.rollout import RolloutSampler

REPEATABLE = (SeedableRandomSampler, SequentialSampler, RolloutSampler)  # samplers that repeat their order
SHOWN_ROWS = 8
SHOWN_TEXT = 60


def rows_of_step(loader: DataLoader, step: int, args: TrainingArguments) -> list[int] | None:
    """Return the training rows of an optimizer step, or of its rollout in PPO.

    Args:
        step: counted from 0.

    Returns:
        Indices of rows; None if several processes train, or if the sampler cannot repeat its order.
    """
    # Any: accelerate's batch samplers share no base class with torch's.
    batch_sampler: Any = loader.batch_sampler
    sampler = getattr(batch_sampler, "sampler", None)
    if not isinstance(sampler, REPEATABLE) or args.world_size > 1:
        return None
    accumulation = args.gradient_accumulation_steps
    epoch, place = divmod(step, math.ceil(len(loader) / accumulation))
    batches = copy(batch_sampler)
    batches.sampler = copy(sampler)
    if hasattr(sampler, "set_epoch"):
        batches.sampler.set_epoch(epoch)  # the loader prefetches, and may already be in the next epoch
    taken = islice(iter(batches), place * accumulation, (place + 1) * accumulation)
    return list(dict.fromkeys(row for batch in taken for row in batch))


def describe(rows: list[int], loader: DataLoader, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Describe rows by number and the start of the first: "rows 4, 17 of the training set, the first 'Once ...'"."""
    numbers = ", ".join(map(str, rows[:SHOWN_ROWS])) + (
        f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    )
    text = beginning(loader.dataset[rows[0]], tokenizer)
    return f"rows {numbers} of the training set" + (f", the first {text!r}" if text else "")


def beginning(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """Return the first characters of a row's text, or of its decoded token ids; None if it has neither."""
    text = next((value for value in row.values() if isinstance(value, str)), None)
    ids = next((value for key, value in row.items() if key.endswith(("input_ids", "prompt_ids"))), None)
    if text is None and ids is not None and tokenizer is not None:
        text = tokenizer.decode(ids[:SHOWN_TEXT])
    return None if text is None else text[:SHOWN_TEXT]
