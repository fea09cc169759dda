"""From scores, KL and values to what training learns from: advantages and returns."""

from torch import Tensor

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.metrics import Metrics
from alignment.trainers.ppo.rollout import Rollout


def add_advantages(
    rollout: Rollout,
    scores: Tensor,
    outputs: Tensor,
    args: PPOConfig,
    beta: float,
    baseline: float,
    metrics: Metrics,
    total: maths.Total,
) -> None:
    """Add loss_mask, old_values, advantages and returns to a rollout, in place of its KL.

    Args:
        scores: (B,), NaN where a completion has none: it is left out of the losses.
        outputs: (B, T + 1), the critic's values before each completion token and after the last.
        beta: weight of the KL in the rewards.
        baseline: taken off the scores.
        total: sums over all processes.
    """
    mask, tensors = rollout.completion_mask, rollout.tensors
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
    rewards = maths.token_rewards(shaped, tensors.pop("kl"), mask, beta)
    if args.whiten_rewards:
        rewards = maths.scale(rewards, loss_mask, total)
    final_values = outputs[:, -1] * ~rollout.terminated if args.bootstrap_truncated else None
    advantages, returns = maths.gae(rewards, values, mask, args.gamma, args.lam, final_values)
    if args.lam_critic != args.lam:
        returns = maths.gae(rewards, values, mask, args.gamma, args.lam_critic, final_values)[1]
    metrics.add("advantages/mean", maths.masked_mean(advantages, loss_mask, total))
    metrics.add("advantages/std", maths.masked_variance(advantages, loss_mask, total).sqrt())
    metrics.add("value/explained_variance", maths.explained_variance(values, returns, loss_mask, total))
    if args.whiten_advantages:
        advantages = maths.whiten(advantages, loss_mask, total)
    tensors |= {"loss_mask": loss_mask, "old_values": values, "advantages": advantages, "returns": returns}
