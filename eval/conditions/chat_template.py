"""The chat template that a checkpoint is asked in, if it is not its own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
SUFFIXES = (".jinja", ".j2")
ASK = "--chat_template FROM asks it in the template of another checkpoint, adapter or .jinja file"


def with_template(tokenizer: PreTrainedTokenizerBase, source: str) -> PreTrainedTokenizerBase:
    """A copy of a tokenizer with another chat template; its vocabulary stays, as the model has no other rows.

    Args:
        source: a Jinja file, or the folder or hub id of a checkpoint or adapter whose tokenizer has a template.

    Raises:
        UserError: there is no template, or it cannot be rendered.
    """
    from jinja2 import TemplateError

    asked = copy.deepcopy(tokenizer)
    asked.chat_template = template_of(source)
    try:
        reply_ends(asked)
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(
            f"the chat template of {source} cannot be rendered",
            got=f"{type(error).__name__}: {error}",
            expected="a template that renders a user's and an assistant's message",
            fix="correct the template",
        ) from error
    return asked


def template_of(source: str) -> str:
    """The chat template of a Jinja file or checkpoint."""
    from alignment.models.checkpoints import require_checkpoint
    from alignment.models.loading import load_tokenizer

    path = Path(source)
    if path.suffix in SUFFIXES and path.is_file():
        return path.read_text(encoding="utf-8")
    if path.suffix in SUFFIXES or path.is_file():
        raise UserError(
            "--chat_template names no template",
            got=source if path.is_file() else f"no file {source}",
            expected=f"a Jinja file ({' or '.join(SUFFIXES)}), or the folder or hub id of a checkpoint with a template",
        )
    require_checkpoint(source)
    template = load_tokenizer(source).chat_template
    if not template:
        raise UserError(
            "--chat_template names a checkpoint without a chat template",
            got=source,
            expected="a checkpoint or adapter whose tokenizer has a chat template, or a .jinja file",
        )
    return template


def reply_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[str]]:
    """Token ids and texts at which a reply ends by a tokenizer's chat template.

    The end of a turn is a special token if the vocabulary has it, and otherwise the first word that follows a reply.
    """
    from alignment.tokenization.chat_format import apply_template, end_of_turn_id

    token = end_of_turn_id(tokenizer)
    if token is not None:
        return [token], []
    said = "zebra"
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": said}]
    after = apply_template(tokenizer, messages, tokenize=False).rpartition(said)[2].split()
    return [], after[:1]


def possible_formats(formats: Sequence[str], tokenizer: PreTrainedTokenizerBase, checkpoint: str | Path) -> list[str]:
    """The formats that a checkpoint can be asked in: without a template the chat format is left out, with a warning.

    Raises:
        UserError: only the chat format is left, and there is no template.
    """
    possible = [format for format in formats if format != "chat" or tokenizer.chat_template]
    if not possible:
        raise without_template(checkpoint)
    if len(possible) < len(formats):
        logger.warning("%s has no chat template and is not asked in the chat format: %s", checkpoint, ASK)
    return possible


def without_template(checkpoint: str | Path) -> UserError:
    """The error for the chat format without a template."""
    return UserError(
        "The chat format needs a tokenizer with a chat template.",
        got=f"a tokenizer without one, in {checkpoint}",
        fix=f"use --format plain, or evaluate a checkpoint of the sft stage or later; {ASK}",
    )
