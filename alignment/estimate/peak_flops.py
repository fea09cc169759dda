"""Peak FLOP/s of a device and model FLOPs of training, for model FLOP utilisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.estimate.compute import measured_flops
from alignment.estimate.shape import Shape

if TYPE_CHECKING:
    import torch

# Card, as torch names it -> TFLOP/s of dense bf16 products with fp32 accumulation. From NVIDIA's data sheets (their
# figures with sparsity are twice these); for GeForce cards from the appendices of the Ada and GA102 white papers.
BF16_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "RTX 6000 Ada": 364,
    "RTX 4090": 165.2,
    "RTX 3090": 71,
    "H100": 989,
    "H200": 989,
    "GH200": 989,
    "A100": 312,
    "A10G": 70,
    "L40S": 362,
    "B200": 2250,
    "A40": 150,
    "L4": 121,
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Peak operations per second of a device in `dtype`, and the source: data sheet or measurement."""
    import torch

    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        known = next((card for card in sorted(BF16_TFLOPS, key=len, reverse=True) if card in name), None)
        if known is not None:
            return BF16_TFLOPS[known] * 1e12, "data sheet"
    return measured_flops(device, dtype), "measured matrix products"


def palm_flops(shape: Shape, length: float, frozen: bool = False) -> float:
    """Model FLOPs of training per token: 6N + 12LHQT (Chowdhery et al. 2022, appendix B).

    N counts the parameters that a token is multiplied by. The whole attention matrix counts, although half of it is
    masked; recomputation by activation checkpointing does not.

    Args:
        length: tokens of a sequence.
        frozen: only an adapter is trained, so that no gradients of the weights are computed.
    """
    return (2 if frozen else 3) * (2 * shape.matrix_parameters + 4 * shape.layers * shape.attention_width * length)
