"""`start_tokens_as` of the sft stage: which tokens start as texts, what is refused, and what the log says."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from alignment.errors import UserError, raise_all
from alignment.models.checkpoints import is_adapter, read_lineage
from alignment.models.vocabulary import tokenize_within
from alignment.stages import STAGES
from alignment.stages.shared.lora import template_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Asked = Mapping[str, str | None] | None  # the recipe's start_tokens_as: token -> text; null leaves a token out


def texts_to_start(asked: Asked, checkpoint: str, new_tokens: Collection[str] = ()) -> dict[str, str]:
    """Return what was asked for, without the tokens that a checkpoint knows from training on conversations.

    Args:
        new_tokens: tokens that this stage adds.
    """
    texts = {token: text for token, text in (asked or {}).items() if text is not None}
    lineage = read_lineage(checkpoint)
    while lineage and (facts := STAGES.get(lineage.get("method", ""))) and facts.data == "text":
        lineage = lineage["parents"].get("model_name_or_path")
    trained = lineage is not None and "method" in lineage
    return {token: text for token, text in texts.items() if not trained or token in new_tokens}


def check_start_tokens(
    texts: Mapping[str, str], checkpoint: str, tokenizer: PreTrainedTokenizerBase, use_peft: bool
) -> None:
    """Raise if a token cannot start as its text.

    With LoRA, the rows of the template's tokens are trained and saved with the adapter; other rows would be lost.

    Args:
        texts: see `texts_to_start`.
    """
    if texts and is_adapter(checkpoint):
        raise UserError(
            "start_tokens_as needs a model without an adapter, which has rows of its own for the template's tokens",
            got=f"the adapter {checkpoint}",
            fix="start_tokens_as: null (--start_tokens_as null)",
        )
    known = set(tokenizer.convert_ids_to_tokens(template_token_ids(tokenizer)))
    if not use_peft:
        known |= {token for token in tokenizer.get_added_vocab() if token in str(tokenizer.chat_template)}
    errors = []
    if others := [token for token in texts if token not in known]:
        errors.append(
            UserError(
                "start_tokens_as has tokens that are no special tokens of the chat template",
                got=", ".join(map(repr, others)),
                expected=", ".join(sorted(known)) or "a chat template with special tokens",
                fix="set them to null and name this tokenizer's; or, for a model that knows conversations, leave all "
                "out: start_tokens_as: null (--start_tokens_as null)",
            )
        )
    no_text = {tokenizer.unk_token_id, *tokenizer.convert_tokens_to_ids([*known, *texts])}
    for token, text in texts.items():
        ids = tokenize_within(tokenizer, text) if isinstance(text, str) else []
        if not ids or no_text.intersection(ids):
            found = ", ".join(tokenizer.convert_ids_to_tokens(ids)) or "no token"
            expected = "a text of known tokens that are not special"
            errors.append(
                UserError(
                    f"start_tokens_as: {token!r} cannot start as its text", got=f"{text!r}: {found}", expected=expected
                )
            )
    raise_all(errors)


def log_start(asked: Asked, texts: Mapping[str, str], checkpoint: str, new_template: bool) -> None:
    """Log which tokens start as texts, and which do not because the checkpoint knows them."""
    kept = [token for token, text in (asked or {}).items() if text is not None and token not in texts]
    if kept:
        logger.info("start_tokens_as: %s stay: %s knows them from conversations", ", ".join(kept), checkpoint)
    if texts:
        logger.info("start_tokens_as: the embeddings of %s start as their texts", ", ".join(texts))
    if texts and not new_template and read_lineage(checkpoint) is None:
        logger.warning(
            "%s has a chat template, and nothing says whether it was trained with it; if it was, start_tokens_as makes "
            "it forget: set start_tokens_as: null (--start_tokens_as null)",
            checkpoint,
        )
