"""Rewards are read where they were trained, do not depend on what stands beside a completion, and tell some apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from alignment.stages.self_check.probe import compare, probe_tolerance
from alignment.stages.self_check.prove import Outcome, tolerance
from alignment.tokenization.reward_rows import reply_ending, reward_rows
from alignment.trainers.ppo.critics import AdapterScorer, ModelScorer
from alignment.trainers.ppo.models import adapter, inner
from alignment.trainers.ppo.rewards import FunctionReward, ModelReward, Samples, ScoredSamples
from alignment.trainers.ppo.rollout import Rollout, rollout_of
from reward_models.learned import LearnedReward


def check_samples(trainer: Trainer, samples: ScoredSamples, probe: dict[str, Any] | None) -> Iterator[Outcome]:
    """PPO's rewards of a few completions.

    Args:
        probe: of the recipe's reward model, as its stage left it.
    """
    for number, reward in enumerate(trainer.rewards):
        scores = samples.rewards[reward.name]
        if isinstance(reward, FunctionReward):
            if not reward.is_async:
                yield from check_function(reward.name, lambda one, r=reward: r.read(r.call(one), one), samples, scores)
            yield from silent_rule(reward.name, scores)
            continue
        alone = ModelReward(reward.scorer, reward.name, 1, reward.reading)(samples)
        yield alone_outcome(trainer, reward.name, scores, alone)
        if probe is not None and number == 0 and reward.reading.knows_tokens:
            yield from probed(trainer, reward, probe)
        yield from as_trained(trainer, reward, samples)
        yield from spread(reward.name, scores, samples.rollout.completion_ids)


def check_function(name: str, call: Callable, samples: Samples, scores: Tensor) -> Iterator[Outcome]:
    """A function that says the same of the same batch again says it of a completion alone too, or the user is told."""
    if largest(call(samples), scores) > 0:
        return  # of a judge that samples its answers nothing can be said
    alone = torch.cat([call(samples.row(index)) for index in range(len(scores))])
    if largest(alone, scores) > 0:
        told = f"{name} gives a completion alone another reward than in its batch: it depends on what else is there"
        yield Outcome(f"{name} of a completion alone", warning=told)


def check_learned(
    trainer: Trainer, rewards: Sequence[LearnedReward], prompts: list, completions: list, probe: dict[str, Any] | None
) -> Iterator[Outcome]:
    """The same of reward models that are functions, as in GRPO."""
    for number, reward in enumerate(rewards):
        together = torch.tensor(reward.scores(prompts, completions))
        single = [reward.scores([one], [other])[0] for one, other in zip(prompts, completions, strict=True)]
        yield alone_outcome(trainer, reward.__name__, together, torch.tensor(single))
        if probe is not None and number == 0:
            yield from compare(f"{reward.__name__} = its checkpoint", probe, reward.model)
        rows = reward_rows(reward.tokenizer, prompts, completions)
        expected = [plain_score(reward.model, row) for row in rows]
        known = ~together.isnan()  # rows beyond its context have no score
        yield read_outcome(trainer, reward.__name__, together[known], torch.tensor(expected)[known], reward.model)
        yield from spread(reward.__name__, together, completions)


def alone_outcome(trainer: Trainer, name: str, together: Tensor, alone: Tensor) -> Outcome:
    return Outcome(
        f"{name} of a completion alone = in its batch",
        largest(together, alone),
        tolerance(trainer) * scale(together),
        failure=f"the score of {name} depends on what else is in the batch",
        fix="another attn_implementation, or a reward model with a padding token of its own",
    )


def probed(trainer: Trainer, reward: ModelReward, probe: dict[str, Any]) -> Iterator[Outcome]:
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
        failure=f"the reward model {reward.name} is not the one that its checkpoint holds",
        fix="see that its base and every adapter are there and unchanged (align info --verify)",
    )


def as_trained(trainer: Trainer, reward: ModelReward, samples: Samples) -> Iterator[Outcome]:
    """Scores against those that the classifier gives to the rows that TRL's RewardTrainer makes of the same replies."""
    reading, scorer = reward.reading, reward.scorer
    rows = reward_rows(reading.tokenizer, [row["prompt"] for row in samples.rows], samples.completions)
    if max(map(len, rows)) > (scorer.context or math.inf):
        return
    # Ids that were sampled need not be those that their text is tokenized to: these replies are made of the rows.
    if reading.ending is not None:
        whole, lengths = samples.rollout.token_ids, samples.rollout.completion_mask.sum(1).tolist()
        prompts = [ids[: len(ids) - length] for ids, length in zip(whole, lengths, strict=True)]
        if any(row[: len(prompt)] != prompt for row, prompt in zip(rows, prompts, strict=True)):
            return  # plain text, whose prompt and reply meet within a token
        own = reply_ending(reading.tokenizer, samples.rows[0]["prompt"])
        samples = replace(samples, rollout=as_sampled(trainer, rows, prompts, len(own)))
    found = ModelReward(scorer, reward.name, len(rows), reading)(samples)
    if isinstance(scorer, ModelScorer):
        expected = [plain_score(scorer.model, row) for row in rows]
    else:
        expected = [adapters_score(scorer, row, reading.pad_token_id) for row in rows]
    yield read_outcome(trainer, reward.name, found, torch.tensor(expected, device=found.device), scorer.model)


def plain_score(classifier: nn.Module, row: list[int]) -> float:
    """What a classifier's own forward pass says of one row, without padding."""
    ids = torch.tensor([row], device=inner(classifier).get_input_embeddings().weight.device)
    return float(classifier(input_ids=ids, use_cache=False).logits[0, 0])


def adapters_score(scorer: AdapterScorer, row: list[int], pad_token_id: int | None) -> float:
    """The same of an adapter on the policy's base, which is no classifier: its head at the last token but padding."""
    place = max(index for index, token in enumerate(row) if token != pad_token_id)
    with adapter(scorer.policy, *scorer.names) as policy:
        ids = torch.tensor([row], device=policy.device)
        states = inner(policy).base_model(input_ids=ids, use_cache=False).last_hidden_state
        return float(scorer.model(states[0, place]))


def read_outcome(trainer: Trainer, name: str, found: Tensor, expected: Tensor, model: nn.Module) -> Outcome:
    return Outcome(
        f"{name} read where it was trained",
        largest(found.float(), expected.float()),
        tolerance(trainer, model) * scale(found),
        failure=f"{name} is read at another token than the one that it was trained to be read at",
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
        fix="see that it was trained (align reward-card), and that this is its checkpoint",
    )


def silent_rule(name: str, values: Tensor) -> Iterator[Outcome]:
    """A function that gives 0 to all: possible, and worth knowing before hours of training."""
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
