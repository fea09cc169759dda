"""Encoding of rows as trainers encode them: token ids, and which tokens contribute to the loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from alignment.data.reading.row_formats import CONVERSATIONS, LABELLED
from alignment.tokenization.chat_format import Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# No warning for each row that is longer than the context: callers look for such rows.
TOKENIZE = {"tokenize": True, "return_dict": True, "tokenizer_kwargs": {"verbose": False}}


@dataclass(frozen=True)
class Encoded:
    """A row's token ids before truncation, and whether each contributes to the loss."""

    row: int
    ids: list[int]
    learned: list[bool]


@dataclass(frozen=True)
class Pair:
    """Token ids of a preference pair before truncation: prompt with generation prompt, and both conversations."""

    row: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class Refused:
    """A row that the chat template refuses, and why."""

    row: int
    reason: str


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, prompt: bool = False, template: str | None = None
) -> list[int]:
    """Return the token ids of a conversation, as every trainer makes them."""
    return list(
        tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, chat_template=template, **TOKENIZE)[
            "input_ids"
        ]
    )


def render_text(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, prompt: bool = False, template: str | None = None
) -> str:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, chat_template=template, tokenize=False)


def encode_conversation(
    row: int, messages: Messages, tokenizer: PreTrainedTokenizerBase, replies_only: bool, template: str | None
) -> Encoded:
    """Encode a conversation as SFTTrainer does: with the loss on the template's generation blocks, or all tokens."""
    if not replies_only:
        ids = render(tokenizer, messages, template=template)
        return Encoded(row, ids, [True] * len(ids))
    output = tokenizer.apply_chat_template(
        messages, return_assistant_tokens_mask=True, chat_template=template, **TOKENIZE
    )
    return Encoded(row, list(output["input_ids"]), [bool(learned) for learned in output["assistant_masks"]])


def encode_pair(row: int, pair: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Pair:
    """Encode a preference pair as DPOTrainer and RewardTrainer do."""
    return Pair(
        row,
        render(tokenizer, pair["prompt"], prompt=True),
        render(tokenizer, pair["prompt"] + pair["chosen"]),
        render(tokenizer, pair["prompt"] + pair["rejected"]),
    )


def encode_rows(
    kind: str,
    rows: Iterable[tuple[int, dict[str, Any]]],
    tokenizer: PreTrainedTokenizerBase,
    replies_only: bool = False,
    template: str | None = None,
) -> tuple[list[Encoded], list[Pair], list[Refused]]:
    """Encode numbered rows of a kind; return encoded rows, pairs, and rows that the template refuses."""
    encoded: list[Encoded] = []
    pairs: list[Pair] = []
    refused: list[Refused] = []
    for number, row in rows:
        try:
            if kind == "text":
                encoded.append(_encode_text(number, row["text"], tokenizer))
            elif kind == CONVERSATIONS:
                encoded.append(encode_conversation(number, row["messages"], tokenizer, replies_only, template))
            elif kind == "preference":
                pairs.append(encode_pair(number, row, tokenizer))
            elif kind == "prompts":
                ids = render(tokenizer, row["prompt"], prompt=True)
                encoded.append(Encoded(number, ids, [False] * len(ids)))
            elif kind == LABELLED:
                encoded.append(_encode_completion(number, row, tokenizer))
        except (TemplateError, TypeError) as error:
            refused.append(Refused(number, str(error)))
    return encoded, pairs, refused


def _encode_text(row: int, text: str, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Encode a text as `tokenize_documents` and `pack` do: all tokens are learned except the first."""
    ids = list(tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"])
    if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids.append(tokenizer.eos_token_id)
    return Encoded(row, ids, [position > 0 for position in range(len(ids))])


def _encode_completion(row: int, example: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Encode a completion as KTOTrainer does: its tokens contribute to the loss."""
    prompt = render(tokenizer, example["prompt"], prompt=True)
    ids = render(tokenizer, example["prompt"] + example["completion"])
    return Encoded(row, ids, [position >= len(prompt) for position in range(len(ids))])


def training_template(tokenizer: PreTrainedTokenizerBase, replies_only: bool) -> tuple[str | None, bool]:
    """Return the template by which SFTTrainer replaces the tokenizer's (None: it does not), and if it marks replies.

    Raises:
        ValueError: only replies are to be learned, but neither the template nor TRL's version of it marks them.
    """
    from trl import get_training_chat_template
    from trl.chat_template_utils import has_generation_markers

    if not replies_only or not tokenizer.chat_template:
        return None, False
    if has_generation_markers(tokenizer.chat_template):
        return None, True
    return get_training_chat_template(tokenizer), True
