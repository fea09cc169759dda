"""Cross-entropy of an output layer whose logits never exist all at once."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import PreTrainedModel

IGNORED = -100  # the label that the loss skips


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward pass, chunk by chunk, while the logits are at hand: nothing is computed twice
    (Hsu et al. 2024, "Liger kernel")."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, chunk_size, softcap, z_loss, smoothing):
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        by_type = hidden.device.type
        dtype = torch.get_autocast_dtype(by_type) if torch.is_autocast_enabled(by_type) else hidden.dtype
        matrix = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = hidden.new_zeros((), dtype=torch.float32)
        chunk = _compiled_chunk() if by_type == "cuda" and find_spec("triton") else _chunk
        with torch.autocast(by_type, enabled=False):
            for start in range(0, len(hidden), chunk_size):
                rows = slice(start, start + chunk_size)
                inputs = hidden[rows].to(dtype)
                about = softcap, z_loss, smoothing, wants_hidden or wants_weight
                loss, grad = chunk(inputs @ matrix.T, labels[rows], *about)
                total += loss
                if wants_hidden:
                    grad_hidden[rows] = grad @ matrix
                if wants_weight:
                    grad_weight += grad.T @ inputs
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx, grad_total):
        grad_hidden, grad_weight = ctx.saved_tensors
        scaled = [None if grad is None else grad * grad_total.to(grad.dtype) for grad in (grad_hidden, grad_weight)]
        return *scaled, None, None, None, None, None


def _chunk(
    raw: Tensor, labels: Tensor, softcap: float | None, z_loss: float, smoothing: float, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Raw logits (tokens, vocabulary) -> the sum of their losses, and its gradient by the raw logits in their type."""
    dtype, raw = raw.dtype, raw.float()
    capped = None if softcap is None else torch.tanh(raw / softcap)
    logits = raw if capped is None else softcap * capped
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
def _compiled_chunk():
    """`_chunk` as few kernels: written out it passes over the logits a dozen times, which on a GPU costs more than the
    matrix products around it (2 x as much on an H200)."""
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
    """Sum over tokens of the cross-entropy of logits hidden @ weight.T, `chunk_size` rows of logits at a time.

    Args:
        hidden: (tokens, width).
        weight: (vocabulary, width).
        labels: (tokens,), -100 where no loss is wanted.
        softcap: logits are softcap * tanh(logits / softcap).
        z_loss: weight of the squared log normaliser, which keeps logits small (Chowdhery et al. 2022).
        smoothing: share of the target's probability that is spread evenly over the vocabulary (Szegedy et al. 2016), as
            in torch's cross_entropy and transformers' LabelSmoother.
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, chunk_size, softcap, z_loss, smoothing)


def plain_head(model: PreTrainedModel) -> str | None:
    """Why `linear_cross_entropy` is not the loss of this model; None where it is, as a few tokens show.

    Some models scale their logits or add a bias; some take no `logits_to_keep`.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        return "its output layer has a bias, or there is none"
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
        return "its logits are not its last hidden states times the weights of its output layer"
    return None


def softcap_of(model: PreTrainedModel) -> float | None:
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)
