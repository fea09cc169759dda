"""The states of convolutions over queries, keys and values, which transformers' paged cache has no place for.

A convolution of size n needs what the n - 1 positions before projected to. The engine's forward pass has the tokens of
several requests in one row: here each request's tokens are convolved after its own state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Convolution(Protocol):
    """A convolution of the GPT: weights (size, features), the widths of queries, keys and values, its layer."""

    weight: torch.Tensor
    widths: tuple[int, int, int]
    layer_idx: int


class ConvolutionStates:
    """Keeps the last positions of each request, per layer: a tensor (size - 1, features)."""

    def __init__(self) -> None:
        self.batch: list[tuple[str, bool, int]] = []
        self.places: tuple[torch.Tensor, list[int]] | None = None  # of this batch, the same in all layers
        self.layers: dict[int, dict[str, torch.Tensor]] = {}

    def begin(self, batch: Sequence[tuple[str, bool, int]], active: Collection[str]) -> None:
        """Prepare for a forward pass.

        Args:
            batch: of each request in the order of its tokens: its name, whether it begins with them, and their number.
            active: names of unfinished requests; the states of others are dropped.
        """
        self.batch, self.places = list(batch), None
        for states in self.layers.values():
            for name in [name for name in states if name not in active]:
                del states[name]

    def convolve(self, convolution: Convolution, projected: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return queries, keys and values with those of the positions before added, each (1, tokens, features)."""
        x = torch.cat(projected, dim=-1)[0]
        weight, steps = convolution.weight.to(x.dtype), len(convolution.weight) - 1
        states, start = self.layers.setdefault(convolution.layer_idx, {}), x.new_zeros(steps, x.shape[-1])
        parts: list[torch.Tensor] = []
        for (name, begins, _), tokens in zip(self.batch, x.split([count for *_, count in self.batch]), strict=True):
            parts += [start if begins else states[name], tokens]
        with_states = torch.cat(parts)
        self.places = self.places or self._places(steps, x.device)
        at, ends = self.places
        total = with_states[at] * (1 + weight[0])
        for back in range(1, steps + 1):
            total = torch.addcmul(total, with_states[at - back], weight[back])
        for (name, _, _), end in zip(self.batch, ends, strict=True):
            states[name] = with_states[end - steps : end].clone()  # not a view, which would keep a whole prompt
        return total[None].split(convolution.widths, dim=-1)

    def _places(self, steps: int, device: torch.device) -> tuple[torch.Tensor, list[int]]:
        """Return where the tokens are among states and tokens, and where each request's end."""
        places: list[int] = []
        ends, end = [], 0
        for _, _, count in self.batch:
            places += range(end + steps, end + steps + count)
            end += steps + count
            ends.append(end)
        return torch.tensor(places, device=device), ends


def has_convolutions(model: PreTrainedModel) -> bool:
    """Return whether a model's attention has convolutions whose states the engine must keep."""
    return bool(getattr(model.config, "qkv_conv_size", 0))


@contextmanager
def as_full_attention(model: PreTrainedModel) -> Iterator[None]:
    """Name the layers of a model with convolutions as the paged cache knows them, while it is made.

    Their keys and values are those of full attention.
    """
    config = model.config
    if not has_convolutions(model):
        yield
        return
    names = config.layer_types
    config.layer_types = ["full_attention"] * len(names)
    try:
        yield
    finally:
        config.layer_types = names
