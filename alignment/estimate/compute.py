"""Predict the floating-point operations of a stage, and the seconds that they take on a device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignment.estimate.shape import Shape

if TYPE_CHECKING:
    import torch

# Products on a CPU are small, so that the fastest of many was not disturbed by other processes.
SIDES, MEASURED_SECONDS = {"cpu": 512, "cuda": 4096}, 0.5
# The share of the speed of matrix products that training reaches; memory traffic takes the rest. Measured on one thread
# of a CPU: 0.31 with 1 M parameters, 0.54 with 60 M, 0.49 with 110 M (2026-11-22). Not measured on a GPU.
UTILISATION = 0.3
# Seconds that the framework takes to launch one layer's forward pass; a backward pass takes twice as long
# (measured on the same CPU with 8 tokens).
LAUNCH = 0.9e-3
# Seconds to load models and data.
START = 8
# How much slower arithmetic is in sampling, where each step reads all weights for one token per sequence.
SAMPLING_SLOWDOWN = 4


@dataclass(frozen=True)
class Device:
    """The hardware that a stage runs on.

    Attributes:
        name: for messages.
        memory: bytes of the GPU, else of the machine's RAM.
        flops: operations per second of a large matrix product; None: not measured, and no time is predicted.
        on_gpu: whether the memory is a GPU's.
    """

    name: str
    memory: int
    flops: float | None = None
    on_gpu: bool = False


def this_device(measure: bool = True) -> Device:
    """The first GPU of this machine, else its processor.

    Args:
        measure: time matrix products for half a second.
    """
    import torch

    from alignment.pipeline.records.environment import hardware

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        flops = measured_flops(torch.device("cuda"), dtype) if measure else None
        return Device(properties.name, properties.total_memory, flops, on_gpu=True)
    machine = hardware()
    flops = measured_flops(torch.device("cpu"), torch.float32) if measure else None
    name = f"{machine['cores']} cores of {machine['cpu']}"
    return Device(name, round(machine["memory_gb"] * 2**30), flops)


def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of square matrix products: the fastest of those that fit into half a second.

    On a CPU one thread is measured and multiplied by their number: threads that wait for each other on a busy machine
    would be measured too slow.
    """
    import torch

    side, threads = SIDES[device.type], torch.get_num_threads()
    left = torch.ones(side, side, device=device, dtype=dtype)
    right = torch.ones(side, side, device=device, dtype=dtype)
    torch.set_num_threads(1)
    try:
        best, until = _seconds_of_product(left, right), time.perf_counter() + MEASURED_SECONDS
        while time.perf_counter() < until:
            best = min(best, _seconds_of_product(left, right))
    finally:
        torch.set_num_threads(threads)
    return 2 * side**3 / best * (threads if device.type == "cpu" else 1)


def _seconds_of_product(left: torch.Tensor, right: torch.Tensor) -> float:
    started = time.perf_counter()
    (left @ right)[0, 0].item()  # waits for the device
    return time.perf_counter() - started


def forward_flops(shape: Shape, length: float) -> float:
    """Forward FLOPs per token, averaged over a sequence of `length` tokens, as `models.gpt.sizes` counts them.

    Every layer is taken to attend to the whole sequence.
    """
    return 2 * shape.matrix_parameters + 4 * shape.attention_width * shape.layers * (length + 1) / 2


def training_flops(shape: Shape, length: float, checkpointing: bool) -> float:
    """Training FLOPs per token: a backward pass takes twice the forward FLOPs, or once if the weights are frozen."""
    backward = 1 if shape.trainable < shape.parameters else 2
    return forward_flops(shape, length) * (1 + backward + checkpointing)


def seconds(flops: float, layer_passes: float, device: Device) -> float | None:
    """Predict the seconds of a stage; None if the device's speed is not known.

    Args:
        flops: in all.
        layer_passes: forward passes through a layer; a backward pass counts as two.
    """
    if device.flops is None:
        return None
    return START + flops / (UTILISATION * device.flops) + layer_passes * LAUNCH
