"""How many blocks of keys and values fit into a budget of memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
RESERVED = 2  # blocks that the engine keeps for padding
FEWEST = 2  # blocks to be of any use


@dataclass(frozen=True)
class CacheShape:
    """Figures of a model that decide what a token in the cache costs.

    Attributes:
        layers: layers with attention.
        heads: query heads; kv_heads: key-value heads; head_dim: features of a head.
        itemsize: bytes of a number.
        masks: attention masks that the engine builds; 0 with flash attention.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    itemsize: int
    masks: int

    def bytes_per_token(self, batch_tokens: int) -> int:
        """Return the bytes of a token in the cache, with its share of all tensors that grow with the cache.

        These are its keys and values in all layers, its column of the attention masks, the copy that a layer reads, and
        its index.
        """
        stored = 2 * self.layers * self.kv_heads * self.head_dim
        read = (2 * self.heads + self.kv_heads) * self.head_dim
        return (stored + read + self.masks * batch_tokens) * self.itemsize + 8 * max(1, self.masks)

    def fixed_bytes(self, batch_tokens: int) -> int:
        """Return the bytes of the attention masks' part for the tokens of a forward pass themselves."""
        return self.masks * batch_tokens * (batch_tokens * self.itemsize + 16)


def shape_of(model: PreTrainedModel) -> CacheShape:
    """Return the figures of a model whose attention is the engine's."""
    from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
    from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

    config = model.config.get_text_config()
    flash = "flash" in (config._attn_implementation or "")
    return CacheShape(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=find_num_key_value_heads(config),
        head_dim=find_head_dim(config),
        itemsize=model.dtype.itemsize,
        masks=0 if flash else len(group_layers_by_attn_type(config)),
    )


def blocks_within(shape: CacheShape, memory: int, *, block: int, batch_tokens: int, wanted: int) -> int:
    """Return the number of blocks to allocate: those that `wanted` tokens need, at most those that fit into `memory`.

    Args:
        memory: bytes.
        block: tokens of a block.
        batch_tokens: tokens of a forward pass, at most.

    Raises:
        UserError: not even two blocks fit.
    """
    per_block, fixed = block * shape.bytes_per_token(batch_tokens), shape.fixed_bytes(batch_tokens)
    fitting = (memory - fixed) // per_block - RESERVED
    if fitting < FEWEST:
        least = in_units((FEWEST + RESERVED) * per_block + fixed)
        raise UserError(
            "the memory for the cache is too small",
            got=in_units(memory),
            expected=f"at least {least} per model",
            fix=f"--memory {least} or more, times the number of models",
        )
    return min(fitting, -(-wanted // block))


def read_memory(text: str) -> int:
    """Return the bytes that a text such as 512M, 2G or 1.5GB names.

    Raises:
        UserError: it names none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), flags=re.IGNORECASE)
    amount = float(found[1]) * UNITS[found[2].upper()] if found else 0
    if amount < 1:
        raise UserError("--memory names no amount of memory", got=text, expected="a number with a unit: 512M, 2G")
    return int(amount)


def in_units(amount: int) -> str:
    """Return an amount of bytes in a form that --memory reads, rounded up: 512M."""
    unit = next(name for name in ("T", "G", "M", "K", "") if amount >= 10 * UNITS[name] or not name)
    return f"{-(-amount // UNITS[unit])}{unit}"
