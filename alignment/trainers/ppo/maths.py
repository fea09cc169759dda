"""The arithmetic of PPO as pure functions: B completions, T completion positions, V vocabulary.

A mask is true on the tokens that count. In each row they are contiguous, at any place in the row.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # exp() of more overflows half precision


class TokenLogProbs(torch.autograd.Function):
    """The gradient of autograd, with one [B, T, V] tensor kept for the backward pass instead of two."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        logits, ids = logits.float(), ids.unsqueeze(-1)
        normaliser = logits.logsumexp(-1, keepdim=True)
        ctx.save_for_backward(logits, ids, normaliser)
        return (logits.gather(-1, ids) - normaliser).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, ids, normaliser = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        return (logits - normaliser).exp_().mul_(-grad).scatter_add_(-1, ids, grad), None


def token_log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each id, in fp32, without a [B, T, V] log-softmax. logits [B, T, V], ids [B, T] -> [B, T]."""
    return TokenLogProbs.apply(logits, ids)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each next-token distribution, row by row to save memory. logits [B, T, V] -> [B, T]."""
    rows = [row.float() for row in logits]
    return torch.stack([row.logsumexp(-1) - (row.softmax(-1) * row).sum(-1) for row in rows])


def identity(sums: Tensor) -> Tensor:
    """Return the sums unchanged: with a single process there is nothing to reduce."""
    return sums


Total = Callable[[Tensor], Tensor]  # sums a tensor over all processes, so that statistics cover all of them


def masked_mean(values: Tensor, mask: Tensor, total: Total = identity) -> Tensor:
    """Mean over the true positions; 0 without true positions. values, mask [B, T] -> []."""
    return total((values * mask).sum()) / total(mask.sum()).clamp(min=1)


def masked_variance(values: Tensor, mask: Tensor, total: Total = identity) -> Tensor:
    """Population variance over the true positions. values, mask [B, T] -> []."""
    return masked_mean((values - masked_mean(values, mask, total)) ** 2, mask, total)


def whiten(values: Tensor, mask: Tensor, total: Total = identity) -> Tensor:
    """Normalise to mean 0 and variance 1 over the true positions, 0 elsewhere. values, mask [B, T] -> [B, T]."""
    centred = values - masked_mean(values, mask, total)
    return centred * torch.rsqrt(masked_variance(values, mask, total) + 1e-8) * mask


def scale(values: Tensor, mask: Tensor, total: Total = identity) -> Tensor:
    """Scale to variance 1 over the true positions, 0 elsewhere, without shifting. values, mask [B, T] -> [B, T]."""
    return values * torch.rsqrt(masked_variance(values, mask, total) + 1e-8) * mask


def kl_k1(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Unbiased estimator of KL(policy || reference) on policy samples, of either sign: log p - log p_ref.

    All [B, T].
    """
    return log_probs - ref_log_probs


def kl_k2(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Biased, non-negative, low-variance estimator whose gradient is that of the KL (Schulman 2020). All [B, T]."""
    return 0.5 * (log_probs - ref_log_probs) ** 2


def kl_k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Unbiased, non-negative estimator of the same KL, of lower variance than k1 (Schulman 2020). All [B, T]."""
    log_ratio = (ref_log_probs - log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return log_ratio.expm1() - log_ratio


KL_ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def adapted_coefficient(coefficient: float, kl: float, target: float, horizon: float, count: int) -> float:
    """KL coefficient after `count` completions with mean KL `kl`, adapted towards `target` (Ziegler et al. 2019)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * count / horizon)


def shape_scores(
    scores: Tensor,
    truncated: Tensor,
    baseline: float,
    clip: float | None,
    missing_eos_penalty: float | None,
    missing_eos_mode: str = "subtract",
) -> Tensor:
    """Scores minus a baseline (Huang et al. 2024, arXiv 2403.17031), clipped, and penalised if truncated.

    The penalty is subtracted from the score or replaces it. It follows the clip, so that it is never clipped away.
    scores, truncated [B] -> [B].
    """
    scores = scores - baseline
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    if missing_eos_penalty is None:
        return scores
    punished = scores - missing_eos_penalty if missing_eos_mode == "subtract" else -missing_eos_penalty
    return torch.where(truncated, punished, scores)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """-beta x KL on every token, plus the score on the last token (Ouyang et al. 2022, arXiv 2203.02155).

    scores [B]; kl, mask [B, T] -> [B, T].
    """
    rewards = -beta * kl * mask
    rewards[torch.arange(len(rewards), device=rewards.device), last_token(mask)] += scores
    return rewards


def last_token(mask: Tensor) -> Tensor:
    """Index of the last true position of each row. mask [B, T] -> [B]."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, final_values: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438).

    The value after the last token is `final_values`, by default 0. rewards, values, mask [B, T], final_values [B] ->
    advantages, returns [B, T], 0 off the mask.
    """
    if final_values is not None:
        rewards = rewards.clone()
        rewards[torch.arange(len(rewards), device=rewards.device), last_token(mask)] += gamma * final_values
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = next_advantage
    return advantages, (advantages + values) * mask


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon: float, delta: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped surrogate (Schulman et al. 2017, arXiv 1707.06347). All [B, T] -> loss, ratio, is_clipped [B, T].

    For negative advantages the surrogate leaves the ratio unbounded; `delta` bounds it: dual clip (Ye et al. 2020,
    arXiv 1912.09729). TRL's GRPO has the same name for it.
    """
    ratio = (log_probs - old_log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    plain = -advantages * (ratio if delta is None else ratio.clamp(max=delta))
    clipped = -advantages * ratio.clamp(1 - epsilon, 1 + epsilon)
    return torch.maximum(plain, clipped), ratio, (clipped > plain) | (plain != -advantages * ratio)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange: float | None) -> Tensor:
    """Half the squared error, or that of values clipped to `old_values` +- cliprange if it is larger (None: no clip).

    All [B, T] -> [B, T].
    """
    loss = (values - returns) ** 2
    if cliprange is not None:
        near = old_values + (values - old_values).clamp(-cliprange, cliprange)
        loss = torch.maximum(loss, (near - returns) ** 2)
    return 0.5 * loss


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total = identity) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant critic. All [B, T] -> []."""
    unexplained = masked_variance(returns - values, mask, total)
    return 1 - unexplained / masked_variance(returns, mask, total).clamp(min=1e-8)


def correlation(a: Tensor, b: Tensor, mask: Tensor | None = None, total: Total = identity) -> Tensor:
    """Pearson correlation over the true positions, 0 if one side is constant. a, b, mask [B] -> []."""
    mask = torch.ones_like(a).bool() if mask is None else mask
    a, b = ((side - masked_mean(side, mask, total)) * mask for side in (a, b))
    squares = total((a * a).sum()) * total((b * b).sum())
    return total((a * b).sum()) / squares.sqrt().clamp(min=1e-8)
