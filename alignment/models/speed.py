"""What makes a model's layers faster without changing what they compute, as recipes ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.models.attention import attend_in_float32

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments


def speed_up(model: nn.Module, args: TrainingArguments) -> None:
    """Attention in 32 bit beside bf16, and compiled layers.

    Args:
        args: with attention_in_float32 (None: with bf16 on a CPU, where sdpa is used) and compile_layers.
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
