"""Encoding of rows as trainers encode them: token ids, and which tokens contribute to the loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.data.reading.row_formats import CONVERSATIONS, LABELLED
from alignment.errors import UserError
from alignment.tokenization.chat_format import Messages, TemplateRefusal, apply_template

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
    output = apply_template(tokenizer, messages, add_generation_prompt=prompt, chat_template=template, **TOKENIZE)
    return list(output["input_ids"])


def render_text(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, prompt: bool = False, template: str | None = None
) -> str:
    """Return a conversation as text."""
    return apply_template(tokenizer, messages, add_generation_prompt=prompt, chat_template=template, tokenize=False)


def encode_conversation(
    row: int, messages: Messages, tokenizer: PreTrainedTokenizerBase, replies_only: bool, template: str | None
) -> Encoded:
    """Encode a conversation as SFTTrainer does: with the loss on the template's generation blocks, or all tokens."""
    if not replies_only:
        ids = render(tokenizer, messages, template=template)
        return Encoded(row, ids, [True] * len(ids))
    output = apply_template(tokenizer, messages, return_assistant_tokens_mask=True, chat_template=template, **TOKENIZE)
    return Encoded(row, list(output["input_ids"]), [bool(learned) for learned in output["assistant_masks"]])


def encode_turns(
    row: int, messages: Messages, tokenizer: PreTrainedTokenizerBase, replies_only: bool, template: str | None
) -> list[Encoded]:
    """Encode a conversation in the rows that train it: one, or one for each reply (`replies_apart`)."""
    apart = replies_apart(row, messages, tokenizer, template) if replies_only else None
    return apart or [encode_conversation(row, messages, tokenizer, replies_only, template)]


def replies_apart(
    row: int, messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str | None
) -> list[Encoded] | None:
    """Encode each reply of a conversation as inference shows it, if a single row would not.

    Templates of models that think (Qwen3, GLM, gpt-oss) write a turn without its thinking, or with another end, once
    the user has answered. In a single row of the whole conversation, a reply would then follow turns that inference
    never shows, or lack the thinking that it has to learn. Each row is the tokens that inference shows before the
    reply, then the reply as `template` writes the last turn of a conversation; only the latter is learned.

    Returns:
        None if the whole conversation as one row trains the same replies after the same tokens, or if the template
        writes another text before a reply in training than as generation prompt, which no row can correct.
    """
    ends = [position for position, turn in enumerate(messages) if position and turn["role"] == "assistant"]
    if len(ends) < 2:
        return None
    text = render_text(tokenizer, messages, template=template)
    if all(
        text.startswith(render_text(tokenizer, messages[:end], prompt=True))
        and text.startswith(render_text(tokenizer, messages[: end + 1], template=template))
        for end in ends
    ):
        return None
    replies = [_encode_reply(row, messages[: end + 1], tokenizer, template) for end in ends]
    whole = encode_conversation(row, messages, tokenizer, True, template)
    if not all(replies) or all(_learns(whole, reply) for reply in replies if reply):
        return None
    return [reply for reply in replies if reply]


def _encode_reply(
    row: int, messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str | None
) -> Encoded | None:
    """Encode the last turn after the tokens of inference; None if the template writes another text before it."""
    prompt = render(tokenizer, messages[:-1], prompt=True)
    before = prompt if template is None else render(tokenizer, messages[:-1], prompt=True, template=template)
    last = encode_conversation(row, messages, tokenizer, True, template)
    if last.ids[: len(before)] != before:
        return None
    return Encoded(row, prompt + last.ids[len(before) :], [False] * len(prompt) + last.learned[len(before) :])


def _learns(whole: Encoded, reply: Encoded) -> bool:
    """Whether a row of a whole conversation learns a reply after the same tokens."""
    if not any(reply.learned):
        return False
    start, end = reply.learned.index(True), len(reply.learned) - reply.learned[::-1].index(True)
    return whole.ids[:end] == reply.ids[:end] and whole.learned[start:end] == reply.learned[start:end]


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
                encoded += encode_turns(number, row["messages"], tokenizer, replies_only, template)
            elif kind == "preference":
                pairs.append(encode_pair(number, row, tokenizer))
            elif kind == "prompts":
                ids = render(tokenizer, row["prompt"], prompt=True)
                encoded.append(Encoded(number, ids, [False] * len(ids)))
            elif kind == LABELLED:
                encoded.append(_encode_completion(number, row, tokenizer))
        except TemplateRefusal as refusal:
            refused.append(Refused(number, str(refusal.got)))
    return encoded, pairs, refused


def row_tokens(encoded: Iterable[Encoded], pairs: Iterable[Pair]) -> dict[int, int]:
    """Return the number of tokens of each row: of its longest part, if a row has several."""
    tokens: dict[int, int] = {}
    sizes = [(row.row, len(row.ids)) for row in encoded]
    sizes += [(pair.row, max(len(pair.chosen), len(pair.rejected))) for pair in pairs]
    for number, size in sizes:
        tokens[number] = max(size, tokens.get(number, 0))
    return tokens


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
        UserError: only replies are to be learned, but the tokenizer or its template cannot mark them.
    """
    from trl import get_training_chat_template
    from trl.chat_template_utils import has_generation_markers

    if not replies_only or not tokenizer.chat_template:
        return None, False
    if not tokenizer.is_fast:
        raise UserError(
            "the masks of replies need a fast tokenizer: assistant_only_loss finds replies by the offsets of tokens",
            got=f"the tokenizer {type(tokenizer).__name__}, which is written in Python and has no offsets",
            expected="a tokenizer with a tokenizer.json",
            fix="assistant_only_loss: false, or a fast tokenizer of the same vocabulary",
        )
    if has_generation_markers(tokenizer.chat_template):
        return None, True
    try:
        return get_training_chat_template(tokenizer), True
    except ValueError as error:
        raise UserError(
            "the chat template has no generation markers: with assistant_only_loss, no token would be learned",
            got="no {% generation %} block, and TRL has no training version of this template",
            expected="{% generation %}...{% endgeneration %} around the replies and their end token",
            fix="assistant_only_loss: false, or a template with the markers as chat_template_path",
        ) from error
