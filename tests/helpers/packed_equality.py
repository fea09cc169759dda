"""What packed training is compared by with unpacked training: losses and gradients."""

import torch
from torch import Tensor, nn


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a gradient, as a share of the largest gradient of the same parameter.

    Gradients that should be zero (of the keys' bias, which a softmax cancels) are rounding alone; they are measured
    by a ten-thousandth of the largest of all.
    """
    assert found.keys() == expected.keys()
    floor = 1e-4 * max(gradient.abs().max() for gradient in expected.values())
    return max(
        ((found[name] - gradient).abs().max() / torch.maximum(gradient.abs().max(), floor)).item()
        for name, gradient in expected.items()
    )
