"""Conversations as chat templates write them: their type, and the tokens that end a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from alignment.errors import UserError
from alignment.models.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]  # {"role": "system" | "user" | "assistant", "content": text} each
REPLY = "A zebra."
CONVERSATION = [{"role": "user", "content": "What lives here?"}, {"role": "assistant", "content": REPLY}]


class TemplateRefusal(UserError):
    """A chat template that does not format a conversation; `got` says why."""


def apply_template(tokenizer: PreTrainedTokenizerBase, messages: Messages | Sequence[Any], **options: Any) -> Any:
    """Return a conversation, or a list of conversations, as the tokenizer's chat template formats it.

    Args:
        options: keyword arguments of `apply_chat_template`.

    Raises:
        TemplateRefusal: there is no template, or it raises: it is code of its author, and may raise anything.
    """
    if tokenizer.chat_template is None and options.get("chat_template") is None:
        raise TemplateRefusal(
            "the tokenizer has no chat template to format a conversation with",
            got=tokenizer.name_or_path or type(tokenizer).__name__,
            expected="a checkpoint whose tokenizer has a chat template",
            fix="copy chat_template.jinja of the model that it was trained from into the checkpoint",
        )
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except Exception as error:
        reason = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        raise TemplateRefusal(
            "the chat template cannot format a conversation",
            got=reason,
            expected="a template that formats conversations of text, without tools or documents",
            fix="correct the template (chat_template.jinja in the checkpoint), or replace it: "
            "chat_template_path: FILE.jinja in the sft recipe",
        ) from error


def require_usable_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise if the tokenizer's chat template cannot format a question with a reply."""
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = sorted(tokenizer.chat_template)
        raise TemplateRefusal(
            "the tokenizer has several chat templates and no default",
            got=", ".join(names),
            expected="a single template, or one named default",
            fix=f"tokenizer.chat_template = tokenizer.chat_template[{names[0]!r}], tokenizer.save_pretrained(FOLDER)",
        )
    if getattr(tokenizer, "split_special_tokens", False):
        raise TemplateRefusal(
            "the tokenizer splits special tokens into their characters, also those of the chat template",
            got="split_special_tokens: true in tokenizer_config.json",
            expected="turns that begin and end with single tokens",
            fix="set split_special_tokens to false in tokenizer_config.json",
        )
    apply_template(tokenizer, CONVERSATION[:-1], add_generation_prompt=True, tokenize=False)
    text = apply_template(tokenizer, CONVERSATION, tokenize=False)
    if REPLY not in text:
        raise TemplateRefusal(
            "the chat template does not write the reply of a conversation",
            got=repr(text[:200]),
            expected=f"the reply {REPLY!r} in the text",
            fix="correct the template (chat_template.jinja in the checkpoint)",
        )


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
    """Raise if neither the tokenizer of a checkpoint (folder or hub id) nor the recipe has a usable chat template.

    Args:
        chat_template_path: the recipe's template, if any.
    """
    if chat_template_path:
        return
    tokenizer = load_tokenizer(checkpoint)
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {checkpoint} has no chat template",
            expected="a template, so that training and inference format conversations in the same way",
            fix="set a template in the sft stage, and start the others from its checkpoint: "
            "--chat_template_path FILE.jinja, or the id of a model with a template",
        )
    require_usable_template(tokenizer)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the first special token that the chat template writes after a reply, or None."""
    _, _, after_reply = apply_template(tokenizer, CONVERSATION, tokenize=False).rpartition(REPLY)
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = tokenizer(after_reply, add_special_tokens=False)["input_ids"]
    return next((token_id for token_id in ids if token_id in special), None)
