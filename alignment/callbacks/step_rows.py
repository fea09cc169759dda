"""Which rows an optimizer step is made of."""

import math
from copy import copy
from itertools import islice

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PreTrainedTokenizerBase, TrainingArguments

from alignment.trainers.ppo.rollout import RolloutSampler

REPEATABLE = (SeedableRandomSampler, SequentialSampler, RolloutSampler)  # asked again, they give the same order
SHOWN_ROWS = 8
SHOWN_TEXT = 60


def rows_of_step(loader: DataLoader, step: int, args: TrainingArguments) -> list[int] | None:
    """The training rows of optimizer step number `step` (from 0), in PPO of its rollout.

    None where they cannot be told: they can where one process trains, and its sampler repeats its order when asked.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if not isinstance(sampler, REPEATABLE) or args.world_size > 1:
        return None
    accumulation = args.gradient_accumulation_steps
    epoch, place = divmod(step, math.ceil(len(loader) / accumulation))
    batches = copy(loader.batch_sampler)
    batches.sampler = copy(sampler)
    if hasattr(sampler, "set_epoch"):
        batches.sampler.set_epoch(epoch)  # the loader, which fetches ahead, may have come to the next
    taken = islice(iter(batches), place * accumulation, (place + 1) * accumulation)
    return list(dict.fromkeys(row for batch in taken for row in batch))


def describe(rows: list[int], loader: DataLoader, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Rows in words, with the beginning of the first: "rows 4, 17 of the training set, the first 'Once upon ...'"."""
    numbers = ", ".join(map(str, rows[:SHOWN_ROWS])) + (
        f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    )
    text = beginning(loader.dataset[rows[0]], tokenizer)
    return f"rows {numbers} of the training set" + (f", the first {text!r}" if text else "")


def beginning(row: dict, tokenizer: PreTrainedTokenizerBase | None) -> str | None:
    """The first characters of a row: of its text, or of its token ids decoded."""
    text = next((value for value in row.values() if isinstance(value, str)), None)
    ids = next((value for key, value in row.items() if key.endswith(("input_ids", "prompt_ids"))), None)
    if text is None and ids is not None and tokenizer is not None:
        text = tokenizer.decode(ids[:SHOWN_TEXT])
    return None if text is None else text[:SHOWN_TEXT]
