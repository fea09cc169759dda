"""Rewards are read where they were trained, do not depend on what stands beside a completion, and tell some apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from alignment.stages.self_check.check import Outcome, tolerance
from alignment.stages.self_check.probe import compare
from alignment.tokenization.reward_rows import reward_rows
from alignment.trainers.ppo_critics import ModelScorer
from alignment.trainers.ppo_rewards import ModelReward, Samples
from alignment.trainers.ppo_rollout import Rollout, rollout_of
from reward_models.learned import LearnedReward


def check_samples(trainer: Trainer, samples: Samples, probe: dict[str, Any] | None) -> Iterator[Outcome]:
    """PPO's rewards of a few completions.

    Args:
        probe: of the recipe's reward model, as its stage left it.
    """
    models = [reward for reward in trainer.rewards if isinstance(reward, ModelReward)]
    rules = [reward.name for reward in trainer.rewards if reward not in models]
    for number, reward in enumerate(models):
        scores = samples.rewards[reward.name]
        alone = ModelReward(reward.scorer, reward.name, 1, reward.reading)(samples)
        yield alone_outcome(trainer, reward.name, scores, alone)
        if probe is not None and number == 0 and reward.reading.knows_tokens:
            yield from probed(trainer, reward, probe)
        yield from as_trained(trainer, reward, samples)
        yield from spread(reward.name, scores, samples.rollout.completion_ids)
    yield from silent_rules({name: samples.rewards[name] for name in rules})


def check_learned(
    trainer: Trainer, rewards: Sequence[LearnedReward], prompts: list, completions: list, probe: dict[str, Any] | None
) -> Iterator[Outcome]:
    """The same of reward models that are functions, as in GRPO."""
    for number, reward in enumerate(rewards):
        together = torch.tensor(reward.scores(prompts, completions))
        single = [reward.scores([one], [other])[0] for one, other in zip(prompts, completions, strict=True)]
        yield alone_outcome(trainer, reward.__name__, together, torch.tensor(single))
        if probe is not None and number == 0:
            yield from compare(f"{reward.__name__} = its checkpoint", probe, reward.model, trainer)
        yield from spread(reward.__name__, together, completions)


def alone_outcome(trainer: Trainer, name: str, together: Tensor, alone: Tensor) -> Outcome:
    return Outcome(
        f"{name} of a completion alone = in its batch",
        largest(together, alone),
        tolerance(trainer) * scale(together),
        failure=f"the score of {name} depends on what else is in the batch",
        mend="another attn_implementation, or a reward model with a padding token of its own",
    )


def probed(trainer: Trainer, reward: ModelReward, probe: dict[str, Any]) -> Iterator[Outcome]:
    ids = torch.tensor(probe["ids"], device=trainer.args.device)
    mask = torch.ones_like(ids)
    found = reward.scorer.outputs({"input_ids": ids, "attention_mask": mask, "completion_mask": mask[:, 1:]}).mean(1)
    yield Outcome(
        f"{reward.name} = its checkpoint",
        largest(found, torch.tensor(probe["scores"], device=found.device)),
        tolerance(trainer, reward.scorer.model) * scale(found),
        failure=f"the reward model {reward.name} is not the one that its checkpoint holds",
        mend="see that its base and every adapter are there and unchanged (align info --verify)",
    )


def as_trained(trainer: Trainer, reward: ModelReward, samples: Samples) -> Iterator[Outcome]:
    """Scores against those that the classifier gives to the rows that TRL's RewardTrainer makes of the same replies."""
    if not isinstance(reward.scorer, ModelScorer):
        return  # an adapter on the policy's base: there is no classifier to ask
    reading, classifier = reward.reading, reward.scorer.model
    rows = reward_rows(reading.tokenizer, [row["prompt"] for row in samples.rows], samples.completions)
    if max(map(len, rows)) > (reward.scorer.context or math.inf):
        return
    # Ids that were sampled need not be those that their text is tokenized to: these replies are made of the rows.
    if reading.ending is not None:
        whole, lengths = samples.rollout.token_ids, samples.rollout.completion_mask.sum(1).tolist()
        prompts = [ids[: len(ids) - length] for ids, length in zip(whole, lengths, strict=True)]
        if any(row[: len(prompt)] != prompt for row, prompt in zip(rows, prompts, strict=True)):
            return  # plain text, whose prompt and reply meet within a token
        rollout = as_sampled(trainer, rows, prompts, len(reading.ending))
        samples = replace(samples, rollout=rollout)
    found = ModelReward(reward.scorer, reward.name, len(rows), reading)(samples)
    expected = [
        float(classifier(input_ids=torch.tensor([row], device=found.device), use_cache=False).logits[0, 0])
        for row in rows
    ]
    yield Outcome(
        f"{reward.name} read where it was trained",
        largest(found, torch.tensor(expected, device=found.device)),
        tolerance(trainer, classifier) * scale(found),
        failure=f"{reward.name} is read at another token than the one that it was trained to be read at",
    )


def as_sampled(trainer: Trainer, rows: list[list[int]], prompts: list[list[int]], ending: int) -> Rollout:
    """The rollout that holds the replies of a reward model's rows, whose last `ending` tokens the template wrote."""
    ends = trainer.eos_token_ids
    replies = [[*row[len(prompt) : len(row) - ending], ends[0]] for row, prompt in zip(rows, prompts, strict=True)]
    return rollout_of(prompts, replies, ends, ends[0], trainer.args.device)


def spread(name: str, scores: Tensor, completions: Sequence[Any]) -> Iterator[Outcome]:
    """Several completions have several scores."""
    known = scores[~scores.isnan()]
    if len(known) < 2 or all(one == completions[0] for one in completions):
        return
    yield Outcome(
        f"{name} tells completions apart",
        float(known.max() == known.min()),
        failure=f"{name} gives every completion the same score, {float(known[0]):g}",
        mend="see that it was trained (align reward-card), and that this is its checkpoint",
    )


def silent_rules(rewards: dict[str, Tensor]) -> Iterator[Outcome]:
    """Functions that give 0 to all: possible, and worth knowing before hours of training."""
    for name, values in rewards.items():
        if len(values) and bool((values.nan_to_num() == 0).all()):
            yield Outcome(
                f"{name} asked",
                warning=f"{name} gave 0 to each of {len(values)} first completions: while it does, it teaches nothing",
            )


def largest(one: Tensor, other: Tensor) -> float:
    """The largest difference; NaN on both sides is none, on one side infinite."""
    if not torch.equal(one.isnan(), other.isnan()):
        return float("inf")
    return float((one - other).nan_to_num().abs().max()) if len(one) else 0.0


def scale(scores: Tensor) -> float:
    """Rounding grows with the scores."""
    return max(1.0, float(scores.nan_to_num().abs().max())) if len(scores) else 1.0
