"""Faster layers that compute the same: attention in float32 while other layers use bf16, and compiled layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

SDPA_FLOAT32 = "sdpa_float32"


def speed_up(model: PreTrainedModel, args: TrainingArguments) -> None:
    """Make attention run in float32 and compile the layers, as the arguments ask.

    Args:
        args: with `attention_in_float32` (None: if bf16 is on, the device is a CPU and attention is sdpa) and
            `compile_layers`.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    wanted = args.attention_in_float32
    if wanted is None:
        wanted = args.bf16 and args.device.type == "cpu" and model.config._attn_implementation == "sdpa"
    if wanted:
        attend_in_float32(model)
    if args.compile_layers:
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.compile()


def attend_in_float32(model: PreTrainedModel) -> None:
    """Run a model's sdpa attention in float32, also under autocast.

    On CPUs the backward pass of scaled_dot_product_attention takes several times as long in bf16 as in float32, which
    cancels the gain of bf16 matrix products.
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
            "attention_in_float32 needs sdpa attention",
            got=f"the attention implementation {used!r}",
            fix="set attention_in_float32: false",
        )
    AttentionInterface.register(SDPA_FLOAT32, sdpa_float32)
    AttentionMaskInterface.register(SDPA_FLOAT32, sdpa_mask)
    model.set_attn_implementation(SDPA_FLOAT32)
