"""Tokenizer and chat template pass from parent to child as they are, unless the recipe asks for others."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from eval.harness.store import template_digest, tokenizer_digest

# Recipe keys that ask for a change, and of what.
ASKING = {"chat_template_path": ("vocabulary", "chat template", "EOS token"), "eos_token": ("EOS token",)}


def require_inherited(tokenizer: PreTrainedTokenizerBase, parent: str, args: Any) -> None:
    """Raise where the tokenizer that a stage trains and saves is not its parent's, before any training.

    A model reads only what its own tokenizer writes: a child with another would be trained on noise, and nobody could
    compare the two.

    Args:
        args: the stage's configuration, whose keys may ask for a change.
    """
    before, now = described(load_tokenizer(parent)), described(tokenizer)
    asked = {part for key, parts in ASKING.items() if getattr(args, key, None) for part in parts}
    drifted = [part for part, digest in now.items() if digest != before[part] and part not in asked]
    if drifted:
        raise UserError(
            "the tokenizer to train with is not the parent's",
            got=f"another {' and another '.join(drifted)} than {parent} has",
            expected="the tokenizer that the parent was trained with",
            fix="start from the parent's own checkpoint; chat_template_path or eos_token in the recipe ask for others",
        )


def described(tokenizer: PreTrainedTokenizerBase) -> dict[str, str | None]:
    return {
        "vocabulary": tokenizer_digest(tokenizer),
        "chat template": template_digest(tokenizer),
        "EOS token": tokenizer.eos_token,
    }
