"""The output layer on a CPU in 16 bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@contextmanager
def contiguous_states(model: PreTrainedModel) -> Iterator[None]:
    """Hand the output layer its hidden states in one piece.

    transformers hands over a slice of them (`logits_to_keep`). oneDNN's 16-bit product of a slice is one product a row
    of the batch, each with a copy of the weights: 15 seconds in place of 0.05 for 8 rows, 640 wide, and 262,144 tokens
    (torch 2.13, one thread), and 0.3 GB a row.
    """
    handle = model.get_output_embeddings().register_forward_pre_hook(_in_one_piece)
    try:
        yield
    finally:
        handle.remove()


def _in_one_piece(layer: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (arguments[0].contiguous(), *arguments[1:])
