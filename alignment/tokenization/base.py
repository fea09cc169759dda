"""Preparation of a base model's tokenizer for conversations: chat template, turn markers, pad token."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parent / "turns"
# Template -> its turn markers; the last template is for vocabularies without turn markers, which are then added.
MARKERS = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
}
DEFAULT = "chatml"
# Names of pad tokens that a vocabulary may have.
PAD_TOKENS = ("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>", "<|endofpad|>", "<|vision_pad|>")


@dataclass
class Changes:
    """Changes made to a tokenizer.

    Attributes:
        said: a sentence for each change.
        new_tokens: tokens that were not in its vocabulary, for which the model needs rows.
    """

    said: list[str] = field(default_factory=list)
    new_tokens: list[str] = field(default_factory=list)


def make_chat_ready(
    tokenizer: PreTrainedTokenizerBase, template: str | None = None, pad_token: str | None = None
) -> Changes:
    """Add, in place, what a tokenizer lacks for conversations; a tokenizer with a template is not changed.

    Args:
        template: a Jinja file, or the folder or hub id of a tokenizer with a template. Default: a template that uses
            turn markers of the vocabulary, or else ChatML with two new tokens.
        pad_token: the recipe's pad token, if any, which the trainer sets.
    """
    changes = Changes()
    if tokenizer.chat_template and not template:
        return changes
    if template:
        take_template(tokenizer, template, changes)
        changes.said.insert(0, f"its chat template is that of {template}, as set in the recipe")
    else:
        vocabulary = tokenizer.get_vocab()
        name = next((name for name, markers in MARKERS.items() if set(markers) <= vocabulary.keys()), DEFAULT)
        tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        _add(tokenizer, MARKERS[name], changes)
        whose = "new tokens" if changes.new_tokens else "tokens that its vocabulary has"
        changes.said.insert(0, f"it had no chat template and gets {name}, with {whose}")
    if pad_token is None and tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        spare = next((token for token in PAD_TOKENS if token in tokenizer.get_vocab()), PAD_TOKENS[0])
        _add(tokenizer, (spare,), changes)
        tokenizer.pad_token = spare
        changes.said.append(f"it pads with {spare}, as it had no separate pad token")
    return changes


def take_template(tokenizer: PreTrainedTokenizerBase, source: str, changes: Changes | None = None) -> None:
    """Set, in place, the template of a file or of another tokenizer, and add the special tokens that it uses."""
    from transformers import AutoTokenizer

    from alignment.models.checkpoints import explained

    if Path(source).is_file() and source.endswith((".jinja", ".j2")):
        tokenizer.chat_template = Path(source).read_text(encoding="utf-8")
        return
    with explained(source):
        other = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if not other.chat_template:
        raise UserError(
            "chat_template_path names a tokenizer without a chat template",
            got=source,
            expected="a Jinja file (.jinja), or the folder or hub id of a tokenizer with a template",
        )
    tokenizer.chat_template = other.chat_template
    named = [token for token in other.get_added_vocab() if token in other.chat_template]
    _add(tokenizer, named, changes or Changes())


def _add(tokenizer: PreTrainedTokenizerBase, tokens: Collection[str], changes: Changes) -> None:
    """Make tokens special, and record the new ones."""
    new = [token for token in tokens if token not in tokenizer.get_vocab()]
    unmarked = [token for token in tokens if token not in tokenizer.get_added_vocab()]
    if unmarked:
        tokenizer.add_special_tokens({"extra_special_tokens": unmarked}, replace_extra_special_tokens=False)
    changes.new_tokens += new
    if new:
        changes.said.append(f"its vocabulary grows by {', '.join(new)}; their embedding rows are trained")
