"""Training rows of conversations whose template changes earlier turns: a row per reply, tokenized for SFTTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alignment.data.tokenizing.encoding import encode_turns, replies_apart
from alignment.data.tokenizing.packing import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def training_rows(conversations: Dataset, tokenizer: PreTrainedTokenizerBase, template: str | None) -> Dataset:
    """Return {messages} unchanged, or {messages, input_ids, labels} if any conversation needs a row per reply.

    SFTTrainer tokenizes the former; it takes ids and labels as they are, and only cuts, filters and packs them. It
    looks for `messages` to accept `assistant_only_loss`.

    Args:
        template: the template of training, with generation markers; None for the tokenizer's own.
    """
    if not any(replies_apart(0, row["messages"], tokenizer, template) for row in conversations):
        return conversations

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {"messages": [], "input_ids": [], "labels": []}
        for messages in batch["messages"]:
            for row in encode_turns(0, messages, tokenizer, True, template):
                columns["messages"].append(messages)
                columns["input_ids"].append(row.ids)
                columns["labels"].append(
                    [token if learned else IGNORED for token, learned in zip(row.ids, row.learned, strict=True)]
                )
        return columns

    return conversations.map(tokenize, batched=True, desc="Tokenizing each reply")
