"""Experience of PPO: a scored rollout, and the targets of its losses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.metrics import Metrics
from alignment.trainers.ppo.rewards import ScoredSamples
from alignment.trainers.ppo.rollout import Rollout


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout before its advantages are computed.

    Attributes:
        log_probs: [B, T], of the policy, by the forward pass that training uses.
        ref_log_probs: [B, T], of the reference; None without a reference.
        kl: mean KL to the reference over the completions of all processes, in nats per completion.
        critic_outputs: [B, T + 1], of a critic that shares the policy's forward pass; None for other critics.
    """

    samples: ScoredSamples
    log_probs: Tensor
    ref_log_probs: Tensor | None
    kl: float
    critic_outputs: Tensor | None

    @property
    def rollout(self) -> Rollout:
        return self.samples.rollout

    def charged_kl(self, args: PPOConfig) -> Tensor:
        """KL estimate that is charged in the reward of each token, 0 if the loss charges it. -> [B, T]."""
        if self.ref_log_probs is None or args.kl_placement == "loss":
            return torch.zeros_like(self.log_probs)
        return maths.KL_ESTIMATORS[args.kl_estimator](self.log_probs, self.ref_log_probs)


@dataclass(frozen=True)
class Targets:
    """Targets of the losses, [B, T] each.

    Attributes:
        loss_mask: tokens that count in the losses; whole rows of the completion mask may be missing.
        old_values: the critic's values when the rollout was made.
    """

    loss_mask: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class Experience:
    """A rollout as training reads it.

    Attributes:
        old_log_probs: [B, T], of the policy when the rollout was made.
        ref_log_probs: [B, T], of the reference; None unless the KL counts in the loss.
    """

    rollout: Rollout
    targets: Targets
    old_log_probs: Tensor
    ref_log_probs: Tensor | None

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """The given rows with their targets, without the columns that are padding in all of them."""
        per_token = {"old_log_probs": self.old_log_probs, **vars(self.targets)}
        optional = {"ref_log_probs": self.ref_log_probs, "sampler_log_probs": self.rollout.sampler_log_probs}
        per_token |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        return self.rollout.batch(rows, **per_token)


def make_targets(
    rollout: Rollout,
    scores: Tensor,
    kl: Tensor,
    outputs: Tensor,
    args: PPOConfig,
    beta: float,
    baseline: float,
    metrics: Metrics,
    total: maths.Total,
) -> Targets:
    """Compute advantages and returns from scores, KL and values, and add their statistics to the metrics.

    Args:
        scores: [B], NaN for completions without a score, which the losses skip.
        kl: [B, T], the KL estimate that each token's reward is charged for.
        outputs: [B, T + 1], the critic's values before each completion token and after the last.
        beta: weight of the KL in the rewards.
        baseline: subtracted from the scores.
        total: sums over all processes.
    """
    mask = rollout.completion_mask
    values = outputs[:, :-1] * mask
    loss_mask = mask & ~scores.isnan()[:, None]
    if args.mask_truncated_completions:
        loss_mask &= rollout.terminated[:, None]
    shaped = maths.shape_scores(
        scores.nan_to_num(),
        ~rollout.terminated,
        baseline,
        args.reward_clip,
        args.missing_eos_penalty,
        args.missing_eos_mode,
    )
    rewards = maths.token_rewards(shaped, kl, mask, beta)
    if args.whiten_rewards:
        rewards = maths.scale(rewards, loss_mask, total)
    final_values = outputs[:, -1] * ~rollout.terminated if args.bootstrap_truncated else None
    advantages, returns = maths.gae(rewards, values, mask, args.gamma, args.lam, final_values)
    if args.lam_critic is not None and args.lam_critic != args.lam:
        returns = maths.gae(rewards, values, mask, args.gamma, args.lam_critic, final_values)[1]
    metrics.add("advantages/mean", maths.masked_mean(advantages, loss_mask, total))
    metrics.add("advantages/std", maths.masked_variance(advantages, loss_mask, total).sqrt())
    metrics.add("value/explained_variance", maths.explained_variance(values, returns, loss_mask, total))
    if args.whiten_advantages:
        advantages = maths.whiten(advantages, loss_mask, total)
    return Targets(loss_mask, values, advantages, returns)
