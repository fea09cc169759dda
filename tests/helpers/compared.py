"""How results of two settings are compared: numbers of float32, up to the rounding of other sums."""

import numpy as np
import torch
from torch import Tensor

GRADIENTS = 1e-4  # of the largest gradient of a parameter
FLOOR = 1e-2  # of the largest of all: gradients that are 0 but for rounding (a bias of keys) are measured by it
ROUNDING = 2e-5


def assert_close(found, expected, what: str, tolerance: float = ROUNDING) -> None:
    """The same numbers, and NaN in the same places; the tolerance is relative to the largest."""
    found, expected = (torch.as_tensor(np.asarray(one, dtype=float)) for one in (found, expected))
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
    assert torch.equal(found.isnan(), expected.isnan()), f"{what}: NaN in other places"
    scale = max(1.0, float(expected.nan_to_num().abs().max())) if expected.numel() else 1.0
    difference = float((found - expected).nan_to_num().abs().max()) if expected.numel() else 0.0
    assert difference <= tolerance * scale, f"{what} differ by {difference:.3g}, of at most {scale:.3g}"


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """Every parameter's gradient, as a share of its largest; and some gradient is not 0."""
    assert expected and max(float(one.abs().max()) for one in expected.values()) > 1e-5, f"{what}: no gradient"
    assert found.keys() == expected.keys(), f"{what}: {sorted(found.keys() ^ expected.keys())[:3]}"
    floor = FLOOR * max(one.abs().max() for one in expected.values())
    for name, gradient in expected.items():
        difference = float((found[name] - gradient).abs().max() / torch.maximum(gradient.abs().max(), floor))
        assert difference <= GRADIENTS, f"{what}: {name} differs by {difference:.3g} of the largest"
