"""The weight of the router losses of mixture-of-experts models in an optimizer step.

A model returns `aux_loss`, a mean over the tokens of a micro-batch. Its weight in an optimizer step is exactly
`router_aux_loss_coef`, however the step is split into micro-batches and processes: each micro-batch is weighted by its
share of the step's targets, like its token loss. The z-loss, a mean per token, then has the same value for any split
into micro-batches with the same ratio of tokens to targets. The balance loss, a product of two means, has a fixed
weight, but its value depends on the tokens of the micro-batch that it is averaged over, as in Switch Transformer (Fedus
et al. 2021) and transformers' Mixtral.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel


def router_coefficient(config: PreTrainedConfig) -> float:
    """Return the weight of `aux_loss` from a model's config, 0 without router logits, as TRL's trainers do."""
    text_config = config.get_text_config()
    return getattr(text_config, "router_aux_loss_coef", 0.0) if hasattr(text_config, "output_router_logits") else 0.0


def weighted_router_loss(
    aux_loss: Tensor, coefficient: float, targets: Tensor, targets_of_step: Tensor | int | None
) -> Tensor:
    """Return the router losses that a micro-batch adds to the loss of its optimizer step.

    Args:
        aux_loss: mean over the micro-batch's tokens.
        targets: how many targets the micro-batch has.
        targets_of_step: targets of the optimizer step, over all its micro-batches (and processes, if their gradients
            are summed); None if the caller averages the micro-batches.
    """
    weighted = coefficient * aux_loss
    return weighted if targets_of_step is None else weighted * (targets / targets_of_step).to(weighted.device)


@contextmanager
def no_router_logits(model: PreTrainedModel) -> Iterator[None]:
    """Turn router logits off within the context, for generation.

    transformers' own models raise when they compute the balance loss over a cached prompt.
    """
    config = model.config.get_text_config()
    before = getattr(config, "output_router_logits", None)
    if before:
        config.output_router_logits = False
    try:
        yield
    finally:
        if before:
            config.output_router_logits = before
