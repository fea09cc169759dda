"""Log-probabilities of a rollout by the policy and its reference, and their KL."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.critics import HeadScorer, Scorer
from alignment.trainers.ppo.experience import ScoredRollout
from alignment.trainers.ppo.metrics import Metrics
from alignment.trainers.ppo.models import Reference, chunked, completion_logits, completion_logits_and_states
from alignment.trainers.ppo.rewards import ScoredSamples
from alignment.trainers.ppo.rollout import Rollout


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
