"""Counts of a model's parameters."""

from collections.abc import Iterable

import torch


def count_parameters(model: torch.nn.Module, other_than: Iterable[torch.nn.Parameter] = ()) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters, without those of `other_than`."""
    left_out = {id(parameter) for parameter in other_than}
    sizes = [
        (numbers_in(parameter), parameter.requires_grad)
        for parameter in model.parameters()
        if id(parameter) not in left_out
    ]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def numbers_in(parameter: torch.nn.Parameter) -> int:
    """Return how many numbers a parameter holds; 4-bit parameters pack several into one element."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else packed.shape.numel()
