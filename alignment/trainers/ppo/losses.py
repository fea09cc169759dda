"""PPO's losses on a micro-batch, as pure functions: B rows, T completion positions, V vocabulary."""

from dataclasses import dataclass

from torch import Tensor

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig


@dataclass(frozen=True)
class PolicyLoss:
    """The policy's loss on a micro-batch.

    Attributes:
        total: [], sum over the tokens of the loss mask.
        surrogate: [B, T], the clipped surrogate alone.
        ratio: [B, T], probability of each token under the policy over that under the old policy.
        is_clipped: [B, T], whether the ratio was clipped.
        approx_kl: [B, T], k3 estimate of KL(old || new).
        sampling_weights: [B, T], truncated importance weights of the sampler; None if they are off.
    """

    total: Tensor
    surrogate: Tensor
    ratio: Tensor
    is_clipped: Tensor
    approx_kl: Tensor
    sampling_weights: Tensor | None


def policy_loss(logits: Tensor, batch: dict[str, Tensor], args: PPOConfig, beta: float) -> PolicyLoss:
    """Clipped surrogate, with the KL to the reference and the entropy bonus if the config asks for them.

    Args:
        logits: [B, T, V], at the sampling temperature.
        batch: rows of `Experience.batch`.
        beta: weight of the KL to the reference.
    """
    log_probs, old_log_probs = maths.token_log_probs(logits, batch["completion_ids"]), batch["old_log_probs"]
    loss, ratio, is_clipped = maths.policy_loss(log_probs, old_log_probs, batch["advantages"], args.epsilon, args.delta)
    surrogate, weights = loss, None
    approx_kl = maths.kl_k3(old_log_probs, log_probs.detach())  # of KL(old || new), since the old policy sampled
    if args.importance_sampling_clip is not None:
        weights = (old_log_probs - batch["sampler_log_probs"]).exp().clamp(max=args.importance_sampling_clip)
        loss = loss * weights
    if "ref_log_probs" in batch:
        loss = loss + beta * maths.KL_ESTIMATORS[args.kl_estimator](log_probs, batch["ref_log_probs"])
    if args.entropy_coef:
        loss = loss - args.entropy_coef * maths.entropy(logits)
    return PolicyLoss((loss * batch["loss_mask"]).sum(), surrogate, ratio, is_clipped, approx_kl, weights)


def value_loss(values: Tensor, batch: dict[str, Tensor], args: PPOConfig) -> Tensor:
    """The critic's loss of each token. values [B, T] -> [B, T]."""
    return maths.value_loss(values, batch["old_values"], batch["returns"], args.cliprange_value)
