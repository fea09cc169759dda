"""Cross-entropy of an output layer that computes the logits chunk by chunk, never all at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

IGNORED = -100  # the label that the loss skips


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes gradients in the forward pass, while a chunk's logits exist, so that nothing is computed twice (Hsu et
    al. 2024, "Liger kernel")."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        chunk_size: int,
        softcap: float | None,
        z_loss: float,
        smoothing: float,
    ) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        by_type = hidden.device.type
        dtype = torch.get_autocast_dtype(by_type) if torch.is_autocast_enabled(by_type) else hidden.dtype
        matrix = weight.to(dtype)
        grad_hidden: Tensor | None = torch.empty_like(hidden) if wants_hidden else None
        grad_weight: Tensor | None = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = hidden.new_zeros((), dtype=torch.float32)
        chunk: Callable[..., Any] = _compiled_chunk() if by_type == "cuda" and find_spec("triton") else _chunk
        with torch.autocast(by_type, enabled=False):
            for start in range(0, len(hidden), chunk_size):
                rows = slice(start, start + chunk_size)
                inputs = hidden[rows].to(dtype)
                options = softcap, z_loss, smoothing, wants_hidden or wants_weight
                loss, grad = chunk(inputs @ matrix.T, labels[rows], *options)
                total += loss
                if grad_hidden is not None:
                    grad_hidden[rows] = grad @ matrix
                if grad_weight is not None:
                    grad_weight += grad.T @ inputs
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scaled = [None if grad is None else grad * grad_total.to(grad.dtype) for grad in (grad_hidden, grad_weight)]
        return *scaled, None, None, None, None, None


def _chunk(
    raw: Tensor, labels: Tensor, softcap: float | None, z_loss: float, smoothing: float, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum of the losses of a chunk, and its gradient with respect to the raw logits if `wanted`.

    Args:
        raw: (tokens, vocabulary), logits before the softcap.
    """
    dtype, raw = raw.dtype, raw.float()
    capped = None if softcap is None else torch.tanh(raw / softcap)
    logits = raw if capped is None or softcap is None else softcap * capped
    counted, targets = labels != IGNORED, labels.clamp(min=0)[:, None]
    log_probabilities = logits.log_softmax(dim=-1)
    chosen = log_probabilities.gather(1, targets)
    normaliser = logits.gather(1, targets) - chosen
    losses = z_loss * normaliser.square() - (1 - smoothing) * chosen
    if smoothing:
        losses = losses - smoothing * log_probabilities.mean(dim=-1, keepdim=True)
    total = losses[:, 0].masked_fill(~counted, 0.0).sum()
    if not wanted:
        return total, None
    grad = log_probabilities.exp_()
    if z_loss:
        grad *= 1 + 2 * z_loss * normaliser
    if smoothing:
        grad -= smoothing / grad.shape[-1]
    grad.scatter_add_(1, targets, torch.full_like(chosen, smoothing - 1.0))
    if capped is not None:
        grad *= 1 - capped.square()
    return total, grad.masked_fill_(~counted[:, None], 0.0).to(dtype)


@cache
def _compiled_chunk() -> Callable[..., Any]:
    """`_chunk` compiled to few kernels. Uncompiled it passes over the logits a dozen times, which takes twice as long
    as the matrix products around it (H200)."""
    return torch.compile(_chunk, dynamic=False)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    chunk_size: int,
    softcap: float | None = None,
    z_loss: float = 0.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Sum over tokens of the cross-entropy of the logits hidden @ weight.T, computed `chunk_size` tokens at a time.

    Args:
        hidden: (tokens, width).
        weight: (vocabulary, width).
        labels: (tokens,), -100 for tokens without a loss.
        softcap: logits are softcap * tanh(logits / softcap).
        z_loss: weight of the squared log normaliser, which keeps logits small (Chowdhery et al. 2022).
        smoothing: share of the target's probability that is spread evenly over the vocabulary (Szegedy et al. 2016), as
            in torch's cross_entropy and transformers' LabelSmoother.
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, chunk_size, softcap, z_loss, smoothing)


def plain_head(model: PreTrainedModel) -> str | None:
    """The reason why `linear_cross_entropy` is not the loss of this model, or None after a check on a few tokens.

    Some models scale their logits or add a bias.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        return "the model has no output layer, or one with a bias"
    ids = torch.arange(8, device=model.device).remainder(model.config.get_text_config().vocab_size)[None]
    training = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(input_ids=ids, use_cache=False, output_hidden_states=True)
        logits = outputs.hidden_states[-1] @ head.weight.T
    model.train(training)
    if (cap := softcap_of(model)) is not None:
        logits = cap * torch.tanh(logits / cap)
    if not torch.allclose(logits, outputs.logits.to(logits.dtype), rtol=1e-3, atol=1e-3):
        return "the logits are not the product of the last hidden states and the weights of the output layer"
    return None


def softcap_of(model: PreTrainedModel) -> float | None:
    """The softcap of a model's logits; None without a softcap."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)
