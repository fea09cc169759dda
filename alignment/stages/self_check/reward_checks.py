"""Check rewards: read at the trained token, independent of the batch, different for different completions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from alignment.stages.self_check.probe import compare, probe_tolerance
from alignment.stages.self_check.prove import TOLERANCE, Outcome, tolerance
from alignment.tokenization.reward_rows import reply_ending, reward_rows
from alignment.trainers.ppo.models import adapter, inner
from alignment.trainers.ppo.rewards import FunctionReward, ModelReward, Reading, Samples, ScoredSamples
from alignment.trainers.ppo.rollout import Rollout, rollout_of
from alignment.trainers.ppo.scorers import AdapterScorer, ModelScorer
from reward_models.learned import LearnedReward


def check_samples(trainer: Trainer, samples: ScoredSamples, probe: dict[str, Any] | None) -> Iterator[Outcome]:
    """Check PPO's rewards of a few completions.

    Args:
        probe: the probe of the recipe's reward model, as its stage recorded it.
    """
    for number, reward in enumerate(trainer.rewards):
        scores = samples.rewards[reward.name]
        if isinstance(reward, FunctionReward):
            if not reward.is_async:
                yield from check_function(reward, samples, scores)
            yield from silent_rule(reward.name, scores)
            continue
        alone = ModelReward(reward.scorer, reward.name, 1, reward.reading)(samples)
        yield alone_outcome(trainer, reward.name, scores, alone)
        if probe is not None and number == 0 and reward.reading.knows_tokens:
            yield from probed(trainer, reward, probe)
        yield from as_trained(trainer, reward, reward.reading, samples)
        yield from spread(reward.name, scores, samples.rollout.completion_ids)


def check_function(reward: FunctionReward, samples: Samples, scores: Tensor) -> Iterator[Outcome]:
    """Warn if a deterministic function gives a completion alone another reward than in its batch."""

    def rewards(batch: Samples) -> Tensor:
        return reward.read(reward.call(batch), batch)

    if largest(rewards(samples), scores) > 0:
        return  # not deterministic: for example a judge that samples its answers
    alone = torch.cat([rewards(samples.row(index)) for index in range(len(scores))])
    if largest(alone, scores) > TOLERANCE * max(1.0, float(scores.nan_to_num().abs().max())):
        yield Outcome(
            f"{reward.name} of a completion alone",
            warning=f"{reward.name} gives a completion alone another reward than in its batch: it depends on the "
            "other completions",
        )


def check_learned(
    trainer: Trainer, rewards: Sequence[LearnedReward], prompts: list, completions: list, probe: dict[str, Any] | None
) -> Iterator[Outcome]:
    """Check reward models that are called as functions, as in GRPO."""
    for number, reward in enumerate(rewards):
        together = torch.tensor(reward.scores(prompts, completions))
        single = [reward.scores([prompt], [reply])[0] for prompt, reply in zip(prompts, completions, strict=True)]
        yield alone_outcome(trainer, reward.__name__, together, torch.tensor(single))
        if probe is not None and number == 0:
            yield from compare(f"{reward.__name__} = its checkpoint", probe, reward.model)
        rows = reward_rows(reward.tokenizer, prompts, completions)
        expected = [plain_score(reward.model, row) for row in rows]
        known = ~together.isnan()  # rows beyond the context have no score
        yield read_outcome(trainer, reward.__name__, together[known], torch.tensor(expected)[known], reward.model)
        yield from spread(reward.__name__, together, completions)


def alone_outcome(trainer: Trainer, name: str, together: Tensor, alone: Tensor) -> Outcome:
    """Compare scores of completions in one batch with the scores of each completion alone. Both [B]."""
    return Outcome(
        f"{name} of a completion alone = in its batch",
        largest(together, alone),
        tolerance(trainer) * scale(together),
        failure=f"the score of {name} depends on what else is in the batch",
        fix="another attn_implementation, or a reward model whose padding token has no other use",
    )


def probed(trainer: Trainer, reward: ModelReward, probe: dict[str, Any]) -> Iterator[Outcome]:
    """Compare a reward model with the probe of its checkpoint."""
    ids = torch.tensor(probe["ids"], device=trainer.args.device)
    mask = torch.ones_like(ids)
    policy = getattr(reward.scorer, "policy", None)
    with torch.autocast(ids.device.type, enabled=False):
        batch = {"input_ids": ids, "attention_mask": mask, "completion_mask": mask[:, 1:]}
        found = reward.scorer.outputs(batch).mean(1)
    yield Outcome(
        f"{reward.name} = its checkpoint",
        largest(found, torch.tensor(probe["scores"], device=found.device)),
        probe_tolerance(reward.scorer.model, *([policy] if policy else [])),
        failure=f"the reward model {reward.name} differs from its checkpoint",
        fix="check that its base and every adapter are present and unchanged (align info --verify)",
    )


def as_trained(trainer: Trainer, reward: ModelReward, reading: Reading, samples: Samples) -> Iterator[Outcome]:
    """Compare scores with the classifier's own on the rows that TRL's RewardTrainer would make of the same replies."""
    scorer = reward.scorer
    rows = reward_rows(reading.tokenizer, [row["prompt"] for row in samples.rows], samples.completions)
    if max(map(len, rows)) > (scorer.context or math.inf):
        return
    # Sampled ids may differ from the tokenization of their text: the replies here are cut out of the rows.
    if reading.ending is not None:
        whole, lengths = samples.rollout.token_ids, samples.rollout.completion_mask.sum(1).tolist()
        prompts = [ids[: len(ids) - length] for ids, length in zip(whole, lengths, strict=True)]
        if any(row[: len(prompt)] != prompt for row, prompt in zip(rows, prompts, strict=True)):
            return  # plain text: prompt and reply share a token
        ending = reply_ending(reading.tokenizer, samples.rows[0]["prompt"])
        if ending is None:
            return
        samples = replace(samples, rollout=as_sampled(trainer, rows, prompts, len(ending)))
    found = ModelReward(scorer, reward.name, len(rows), reading)(samples)
    if isinstance(scorer, ModelScorer):
        expected = [plain_score(scorer.model, row) for row in rows]
    else:
        expected = [adapters_score(scorer, row, reading.pad_token_id) for row in rows]
    yield read_outcome(trainer, reward.name, found, torch.tensor(expected, device=found.device), scorer.model)


def plain_score(classifier: nn.Module, row: list[int]) -> float:
    """Return the score of one row by a classifier's own forward pass, without padding."""
    ids = torch.tensor([row], device=inner(classifier).get_input_embeddings().weight.device)
    return float(classifier(input_ids=ids, use_cache=False).logits[0, 0])


def adapters_score(scorer: AdapterScorer, row: list[int], pad_token_id: int | None) -> float:
    """Return the score of one row by an adapter on the policy's base: its head at the last token but padding."""
    place = max(index for index, token in enumerate(row) if token != pad_token_id)
    with adapter(scorer.policy, *scorer.names) as policy:
        ids = torch.tensor([row], device=policy.device)
        states = inner(policy).base_model(input_ids=ids, use_cache=False).last_hidden_state
        return float(scorer.model(states[0, place]))


def read_outcome(trainer: Trainer, name: str, found: Tensor, expected: Tensor, model: nn.Module) -> Outcome:
    """Compare scores with the reward model's own. Both [B]."""
    return Outcome(
        f"{name} read at its trained token",
        largest(found.float(), expected.float()),
        tolerance(trainer, model) * scale(found),
        failure=f"{name} is read at another token than in its training",
    )


def as_sampled(trainer: Trainer, rows: list[list[int]], prompts: list[list[int]], ending: int) -> Rollout:
    """Return the rollout with the replies of a reward model's rows, without the template's last `ending` tokens."""
    ends = trainer.eos_token_ids
    replies = [[*row[len(prompt) : len(row) - ending], ends[0]] for row, prompt in zip(rows, prompts, strict=True)]
    return rollout_of(prompts, replies, ends, ends[0], trainer.args.device)


def spread(name: str, scores: Tensor, completions: Sequence[Any]) -> Iterator[Outcome]:
    """Check that different completions do not all have the same score."""
    known = scores[~scores.isnan()]
    if len(known) < 2 or all(completion == completions[0] for completion in completions):
        return
    yield Outcome(
        f"{name} distinguishes completions",
        float(known.max() == known.min()),
        failure=f"{name} gives every completion the same score, {float(known[0]):g}",
        fix="check that it was trained (align reward-card), and that this is its checkpoint",
    )


def silent_rule(name: str, values: Tensor) -> Iterator[Outcome]:
    """Warn if a function gives 0 to all completions: possible, but worth knowing before hours of training."""
    if len(values) and bool((values.nan_to_num() == 0).all()):
        yield Outcome(
            f"{name} asked",
            warning=f"{name} gave 0 to each of the first {len(values)} completions: constant rewards teach nothing",
        )


def largest(first: Tensor, second: Tensor) -> float:
    """Return the largest difference: 0 for NaN on both sides, infinity for NaN on one side. Both [B]."""
    if not torch.equal(first.isnan(), second.isnan()):
        return float("inf")
    return float((first - second).nan_to_num().abs().max()) if len(first) else 0.0


def scale(scores: Tensor) -> float:
    """Return the factor by which rounding grows with the scores, at least 1."""
    return max(1.0, float(scores.nan_to_num().abs().max())) if len(scores) else 1.0
