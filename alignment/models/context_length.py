"""The context length of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

NAMES = ("max_position_embeddings", "n_positions", "n_ctx")  # under which configs of transformers' models keep it


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the number of positions that a config (of a model with images, its text part) names, or None."""
    text = config.get_text_config()
    values = (getattr(text, name, None) for name in NAMES)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
