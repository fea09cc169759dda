"""Batches of preference pairs of similar length."""

from __future__ import annotations

from datasets import Dataset
from transformers import Trainer

PROMPT, CHOSEN, REJECTED = "prompt_ids", "chosen_ids", "rejected_ids"  # columns of TRL's tokenized pairs


def group_pairs_by_length(trainer: Trainer) -> None:
    """Make `train_sampling_strategy: group_by_length` work on pairs.

    Trainer reads lengths from a column, by default from `input_ids`, which pairs do not have. Both sides of a pair are
    padded together, so that the longer side counts.
    """
    args = trainer.args
    if args.train_sampling_strategy != "group_by_length":
        return
    args.remove_unused_columns = False  # Trainer would drop the lengths too early; TRL's collators ignore other columns
    trainer.train_dataset = with_lengths(trainer.train_dataset, args.length_column_name)
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = with_lengths(trainer.eval_dataset, args.length_column_name)


def with_lengths(pairs: Dataset, column: str) -> Dataset:
    """Add the number of tokens of each pair's longer side, with its prompt if pairs have a separate prompt."""
    longer = [max(len(chosen), len(rejected)) for chosen, rejected in zip(pairs[CHOSEN], pairs[REJECTED], strict=True)]
    if PROMPT in pairs.column_names:
        longer = [len(prompt) + side for prompt, side in zip(pairs[PROMPT], longer, strict=True)]
    return pairs.add_column(column, longer)
