"""Attention in 32 bit inside a model that otherwise computes in 16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sdpa_float32"


def attend_in_float32(model: PreTrainedModel) -> None:
    """Let a model that uses sdpa run it in float32, whatever autocast says.

    On CPUs the backward pass of scaled_dot_product_attention takes several times as long in bf16 as in float32, which
    eats what bf16 matrix products save.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def sdpa_float32(module, query, key, value, attention_mask, **kwargs):
        with torch.autocast(query.device.type, enabled=False):
            if attention_mask is not None and attention_mask.is_floating_point():
                attention_mask = attention_mask.float()
            output, _ = sdpa_attention_forward(
                module, query.float(), key.float(), value.float(), attention_mask, **kwargs
            )
        return output, None

    if (used := model.config._attn_implementation) != "sdpa":
        raise UserError(
            "attention_in_float32 is for sdpa attention",
            got=f"attention by {used!r}",
            fix="set attention_in_float32: false",
        )
    AttentionInterface.register(NAME, sdpa_float32)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
