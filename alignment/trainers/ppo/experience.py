"""Experience of PPO: a scored rollout with its log-probabilities, and the targets of its losses."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.metrics import Metrics
from alignment.trainers.ppo.models import Reference, chunked, completion_logits, completion_logits_and_states
from alignment.trainers.ppo.rewards import ScoredSamples
from alignment.trainers.ppo.rollout import Rollout
from alignment.trainers.ppo.scorers import HeadScorer, Scorer


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


class PolicyPass(NamedTuple):
    """Results of a forward pass of the policy over a rollout.

    Attributes:
        log_probs: [B, T], of the completion tokens.
        entropy: [B, T], of the distributions that the tokens were sampled from.
        critic_outputs: [B, T + 1], of a value head on the policy's trunk; None for other critics.
    """

    log_probs: Tensor
    entropy: Tensor
    critic_outputs: Tensor | None


def policy_pass(model: nn.Module, critic: Scorer, rollout: Rollout, temperature: float, batch_size: int) -> PolicyPass:
    """Run the policy over a rollout without gradients, `batch_size` rows at a time."""
    head = critic if isinstance(critic, HeadScorer) else None

    def run(batch: dict[str, Tensor]) -> Tensor:
        logits, states = completion_logits_and_states(model, batch, temperature)
        log_probs = maths.token_log_probs(logits, batch["completion_ids"])
        columns = [torch.nn.functional.pad(values, (0, 1)) for values in (log_probs, maths.entropy(logits))]
        if head is not None:
            columns.append(head.of_states(states))
        return torch.stack(columns, -1)

    log_probs, entropy, *outputs = chunked(run, rollout, batch_size, extra=1).unbind(-1)
    return PolicyPass(log_probs[:, :-1], entropy[:, :-1], outputs[0] if outputs else None)


def reference_log_probs(reference: Reference, rollout: Rollout, temperature: float, batch_size: int) -> Tensor:
    """Log-probabilities of the completion tokens under the reference. -> [B, T]."""
    with reference.active() as model:

        def run(batch: dict[str, Tensor]) -> Tensor:
            logits = completion_logits(model, batch, temperature)
            return maths.token_log_probs(logits, batch["completion_ids"])

        return chunked(run, rollout, batch_size)


def add_log_probs(
    samples: ScoredSamples,
    model: nn.Module,
    critic: Scorer,
    reference: Reference | None,
    args: PPOConfig,
    metrics: Metrics,
    total: maths.Total,
) -> ScoredRollout:
    """Add log-probabilities by the forward pass that training uses, which may differ from the sampler's, and the KL.

    Args:
        metrics: receives the entropy and the KL.
        total: sums over all processes.
    """
    rollout, mask = samples.rollout, samples.rollout.completion_mask
    options = args.temperature, args.per_device_eval_batch_size
    log_probs, entropy, outputs = policy_pass(model, critic, rollout, *options)
    metrics.add_tokens(mask, {"entropy": entropy})
    if reference is None:
        return ScoredRollout(samples, log_probs, None, 0.0, outputs)
    ref_log_probs = reference_log_probs(reference, rollout, *options)
    kl = ((log_probs - ref_log_probs) * mask).sum(1)
    mean_kl = maths.masked_mean(kl, torch.ones_like(kl), total).item()
    metrics.add_tokens(mask, {"kl": maths.kl_k3(log_probs, ref_log_probs)})
    metrics.add("kl/completion", mean_kl * len(kl), len(kl))
    return ScoredRollout(samples, log_probs, ref_log_probs, mean_kl, outputs)
