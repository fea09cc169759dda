"""Tokenizer and chat template pass from parent to child unchanged, unless the recipe asks for others."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from eval.harness.store import template_digest, tokenizer_digest

# Recipe keys that ask for a change, and the parts that they change.
ASKING = {"chat_template_path": ("vocabulary", "chat template", "EOS token"), "eos_token": ("EOS token",)}


def require_inherited(tokenizer: PreTrainedTokenizerBase, parent: str, args: Any) -> None:
    """Raise if the tokenizer that a stage trains with and saves is not its parent's.

    With another tokenizer the model would be trained on tokens that it has never seen in these roles, and the two
    checkpoints could not be compared.

    Args:
        args: the stage's configuration, whose keys may ask for a change.
    """
    before, now = described(load_tokenizer(parent)), described(tokenizer)
    asked = {part for key, parts in ASKING.items() if getattr(args, key, None) for part in parts}
    drifted = [part for part, digest in now.items() if digest != before[part] and part not in asked]
    if drifted:
        raise UserError(
            "the tokenizer to train with is not the parent's",
            got=f"another {' and another '.join(drifted)} than that of {parent}",
            expected="the tokenizer that the parent was trained with",
            fix="start from the parent's own checkpoint; chat_template_path or eos_token in the recipe ask for others",
        )


def described(tokenizer: PreTrainedTokenizerBase) -> dict[str, str | None]:
    return {
        "vocabulary": tokenizer_digest(tokenizer),
        "chat template": template_digest(tokenizer),
        "EOS token": tokenizer.eos_token,
    }
