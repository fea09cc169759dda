"""Conversations as chat templates write them: their type, and the tokens that end a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.errors import UserError
from alignment.models.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]  # {"role": "system" | "user" | "assistant", "content": text} each


def chat_eos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end generation in a chat: the EOS token, and the token that ends an assistant turn.

    The latter is the first special token that the template writes after the reply of a sample conversation, which works
    for any tokenizer (`<|im_end|>`, `<|eot_id|>`, `<end_of_turn>`, ...).
    """
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    end = end_of_turn_id(tokenizer) if tokenizer.chat_template else None
    if end is not None and end not in ids:
        ids.append(end)
    if not ids:
        raise UserError(
            "The tokenizer has no token at which the model could stop.",
            got="a tokenizer with no EOS token, and no chat template that ends a turn with a special token",
            expected="one of the two",
            fix="set the tokenizer's eos_token, or give it a chat template",
        )
    return ids


def require_template(checkpoint: str, chat_template_path: str | None = None) -> None:
    """Raise if neither the tokenizer of a checkpoint (folder or hub id) nor the recipe has a chat template.

    Args:
        chat_template_path: the recipe's template, if any.
    """
    if not chat_template_path and not load_tokenizer(checkpoint).chat_template:
        raise UserError(
            f"the tokenizer of {checkpoint} has no chat template",
            expected="a template, so that training and inference format conversations in the same way",
            fix="set a template in the sft stage, and start the others from its checkpoint: "
            "--chat_template_path FILE.jinja, or the id of a model with a template",
        )


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the first special token that the chat template writes after a reply, or None."""
    reply = "zebra"
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": reply}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    after_reply = rendered[rendered.rindex(reply) + len(reply) :]
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = tokenizer(after_reply, add_special_tokens=False)["input_ids"]
    return next((token_id for token_id in ids if token_id in special), None)
