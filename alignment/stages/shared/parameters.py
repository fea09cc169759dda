"""Counts of a model's parameters."""

from collections.abc import Iterable

import torch


def count_parameters(model: torch.nn.Module, other_than: Iterable[torch.nn.Parameter] = ()) -> tuple[int, int]:
    """Trainable and all parameters, without some."""
    left_out = {id(parameter) for parameter in other_than}
    sizes = [
        (numbers_in(parameter), parameter.requires_grad)
        for parameter in model.parameters()
        if id(parameter) not in left_out
    ]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def numbers_in(parameter: torch.nn.Parameter) -> int:
    """How many numbers a parameter stands for: of 4 bit several are packed into one."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else packed.shape.numel()
