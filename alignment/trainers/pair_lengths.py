"""Pairs of like lengths in a batch."""

from __future__ import annotations

from datasets import Dataset
from transformers import Trainer

PARTS = ("prompt_ids", "chosen_ids", "rejected_ids")  # columns of TRL's tokenized pairs; reward models have no prompt's


def group_pairs_by_length(trainer: Trainer) -> None:
    """Make `train_sampling_strategy: group_by_length` work on pairs.

    Trainer takes lengths from a column, or else of `input_ids`, which pairs do not have: it would end with an error.
    Both sides of a pair are padded together, so the longer one counts.
    """
    args = trainer.args
    if args.train_sampling_strategy != "group_by_length":
        return
    args.remove_unused_columns = (
        False  # else the lengths go before they are looked at; TRL's collators know what to read
    )
    trainer.train_dataset = with_lengths(trainer.train_dataset, args.length_column_name)
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = with_lengths(trainer.eval_dataset, args.length_column_name)


def with_lengths(pairs: Dataset, column: str) -> Dataset:
    """Tokenized pairs, with the tokens of each pair's longer side."""
    prompts, chosen, rejected = ([*map(len, pairs[name])] if name in pairs.column_names else None for name in PARTS)
    longer = [max(sides) for sides in zip(chosen, rejected, strict=True)]
    if prompts is not None:
        longer = [prompt + side for prompt, side in zip(prompts, longer, strict=True)]
    return pairs.add_column(column, longer)
