"""Check that completions are sampled from the trained weights, and that the KL starts at 0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from alignment.keyed_seeds import keyed_rng
from alignment.models.adapters import token_rows_in_place
from alignment.stages.self_check.probe import compare, recorded
from alignment.stages.self_check.prove import SAME_PASS, Check, Outcome, moved_weights, tolerance
from alignment.stages.self_check.reward_checks import check_learned, check_samples, silent_rule
from alignment.trainers.ppo import maths
from alignment.trainers.ppo.metrics import Metrics
from alignment.trainers.ppo.models import Reference, completion_logits, inner
from alignment.trainers.ppo.rollout import SAMPLERS, Rollout, encode_prompts, sample
from alignment.trainers.ppo.trainer import PPOTrainer
from reward_models.calls import unwrapped
from reward_models.learned import LearnedReward

PROMPTS = 4
SAMPLED_TOKENS = 32

SAMPLER = Outcome(
    "sampler = trained weights",
    failure="completions are sampled from other weights than the trained ones",
    fix="sampler: generate; use_vllm: false; check that the adapter is part of the model that samples",
)
TRAINED_WEIGHTS = Outcome(
    "trained weights matter",
    failure="changing the trained weights changes no log-probability",
    fix="check that the adapter is on layers that the model runs",
)
RATIO = Outcome(
    "ratio 1",
    failure="training's log-probabilities of fresh completions differ from those that the rollout recorded",
    fix="another attn_implementation; a padding token that is not the end-of-sequence token",
)
KL = Outcome(
    "KL 0",
    failure="the KL is measured from another model than the one that training starts from",
    fix="start training from the reference's checkpoint",
)
REFERENCE = Outcome(
    "reference stays",
    failure="the reference moves with the policy, so the KL would stay 0 whatever is trained",
    fix="report it with the recipe",
)


def starts_from(checkpoint: str | None) -> Check:
    """Return the check that the model is the parent stage's."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        yield from compare("starts from its parent", recorded(checkpoint), trainer.model)

    return check


def ppo_checks(reward_model: str | None) -> Check:
    """Return the checks of a PPO trainer: sampler, importance ratio, KL, rewards."""

    def check(trainer: PPOTrainer) -> Iterator[Outcome]:
        rows, temperature = first_prompts(trainer), trainer.args.temperature
        length = min(SAMPLED_TOKENS, trainer.args.max_completion_length)
        with replaced(trainer.args, max_completion_length=length):
            yield from check_sampler(trainer, encode_prompts(rows, trainer.processing_class))
            scored = trainer.make_rollout(rows, ("self-check", trainer.args.seed), Metrics())
        rollout, mask, old = scored.rollout, scored.rollout.completion_mask, scored.log_probs
        new = log_probs(trainer.model, rollout, temperature)
        yield RATIO.measured(largest_ratio(new, old, mask), tolerance(trainer))
        if trainer.reference is not None:
            reference = reference_log_probs(trainer.reference, rollout, temperature)
            yield KL.measured(largest_ratio(new, reference, mask), SAME_PASS)
            with moved_weights(trainer.model):
                moved = reference_log_probs(trainer.reference, rollout, temperature)
            yield REFERENCE.measured(float(largest_ratio(reference, moved, mask) != 0))
        yield from check_samples(trainer, scored.samples, recorded(reward_model))

    return check


def grpo_checks(reward_model: str | None) -> Check:
    """Return the checks of TRL's GRPO trainer by its own path: sampler, KL, rewards; the ratio is 1 by definition."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        count = trainer.args.num_generations_eval or trainer.args.num_generations
        prompts = first_prompts(trainer)
        rows = [row for row in (prompts[0], prompts[-1]) for _ in range(count)]
        # vLLM copies the weights once per step: it would keep the changed ones.
        move = nullcontext() if trainer.args.use_vllm else moved_weights(trainer.model)
        with move:
            # The likeliest tokens identify the sampler's weights: TRL's sampler returns no log-probabilities.
            measured, completions = sampled_group(trainer, rows, rewarded=False, temperature=1e-4)
            gaps = greedy_gaps(trainer, rows, completions)
        yield SAMPLER.measured(gaps, tolerance(trainer))
        if "kl" in measured and not trainer.args.use_vllm:
            yield REFERENCE.measured(float(not measured["kl"] > 0))
        measured, completions = sampled_group(trainer, rows)
        if "kl" in measured:
            # The k3 estimator is half the square of a small log-ratio.
            yield KL.measured(math.sqrt(2 * max(measured["kl"], 0.0)), SAME_PASS)
        yield from check_group(trainer, rows, completions, measured, recorded(reward_model))

    return check


def first_prompts(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the first training rows, at most PROMPTS."""
    return [trainer.train_dataset[index] for index in range(min(PROMPTS, len(trainer.train_dataset)))]


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes to other values within the context."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def sampled_group(
    trainer: Trainer, rows: list[dict[str, Any]], rewarded: bool = True, **sampling: float
) -> tuple[dict[str, float], list[list[int]]]:
    """Let TRL sample short completions, reward them and compare them with the reference.

    Args:
        rewarded: whether to call the recipe's reward functions.
        sampling: settings of the generation config that replace the recipe's.

    Returns:
        TRL's metrics, and the token ids of the completions.
    """
    seen: list[list[int]] = []

    def listen(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        seen.extend(completion_ids)
        return [0.0] * len(completion_ids)

    weights = trainer.reward_weights
    listening = {
        "reward_funcs": [*(trainer.reward_funcs if rewarded else []), listen],
        "reward_func_names": [*(trainer.reward_func_names if rewarded else []), "self-check"],
        "reward_processing_classes": [*(trainer.reward_processing_classes if rewarded else []), None],
        "reward_weights": torch.cat([weights if rewarded else weights[:0], weights.new_zeros(1)]),
        "mask_truncated_completions": False,  # most short completions are truncated, and the KL needs tokens
    }
    config = trainer.generation_config
    sampling |= {"max_new_tokens": min(SAMPLED_TOKENS, trainer.args.max_completion_length)}
    with replaced(trainer, **listening), replaced(config, **sampling):
        trainer.prediction_step(trainer.model, rows, prediction_loss_only=True)
    return {name: values[-1] for name, values in trainer._metrics["eval"].items() if values}, seen


def greedy_gaps(trainer: Trainer, rows: list[dict[str, Any]], completions: list[list[int]]) -> float:
    """Return the largest gap, in nats of the training pass, between the likeliest token and a sampled one."""
    prompts, largest = encode_prompts(rows, trainer.processing_class), 0.0
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = torch.tensor([prompt + completion], device=trainer.args.device)
        logits = trainer.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        largest = max(largest, float((logits.max(-1).values - chosen).max()))
    return largest


def check_group(
    trainer: Trainer,
    rows: list[dict[str, Any]],
    completions: list[list[int]],
    measured: dict[str, float],
    probe: dict[str, Any] | None,
) -> Iterator[Outcome]:
    """Check the rewards of a group that GRPO has sampled."""
    texts = trainer.processing_class.batch_decode(completions, skip_special_tokens=True)
    talks = [
        text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
        for row, text in zip(rows, texts, strict=True)
    ]
    learned = [reward for reward in map(unwrapped, trainer.reward_funcs) if isinstance(reward, LearnedReward)]
    yield from check_learned(trainer, learned, [row["prompt"] for row in rows], talks, probe)
    known = {reward.__name__ for reward in learned}
    for name in trainer.reward_func_names:
        if name not in known and f"rewards/{name}/mean" in measured:
            figures = [measured[f"rewards/{name}/{figure}"] for figure in ("mean", "std")]
            yield from silent_rule(name, torch.tensor(figures))


def check_sampler(trainer: PPOTrainer, prompts: list[list[int]]) -> Iterator[Outcome]:
    """Compare the sampler's log-probabilities with the training pass's while some trained weights are changed."""
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    pad = trainer.processing_class.pad_token_id
    options: dict[str, Any] = {
        "max_completion_length": args.max_completion_length,
        "temperature": args.temperature,
        "eos_token_ids": trainer.eos_token_ids,
        "pad_token_id": trainer.eos_token_ids[0] if pad is None else pad,
    }
    sampler = SAMPLERS[args.sampler]
    if sampler is sample:
        options["log_probs"] = True  # the other sampler always returns them
    with moved_weights(model):
        with keyed_rng(args.device, "self-check", args.seed), token_rows_in_place(inner(model)):
            rollout = sampler(inner(model), prompts, **options)
        trained = log_probs(model, rollout, args.temperature)
    mask, sampled = rollout.completion_mask, rollout.sampler_log_probs
    assert sampled is not None
    yield SAMPLER.measured(largest_ratio(sampled, trained, mask), tolerance(trainer))
    same = log_probs(model, rollout, args.temperature)
    yield TRAINED_WEIGHTS.measured(float(torch.equal(same[mask], trained[mask])))


def reference_log_probs(reference: Reference, rollout: Rollout, temperature: float) -> Tensor:
    """Return the reference's log-probabilities of the completion tokens. -> [B, T]."""
    with reference.active() as model:
        return log_probs(model, rollout, temperature)


def log_probs(model: nn.Module, rollout: Rollout, temperature: float) -> Tensor:
    """Return the log-probabilities of the completion tokens by the training pass, all rows in one batch. -> [B, T]."""
    batch = rollout.batch(torch.arange(len(rollout.lengths), device=rollout.lengths.device))
    return maths.token_log_probs(completion_logits(model, batch, temperature), batch["completion_ids"])


def largest_ratio(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Return the largest absolute log-ratio of two sets of log-probabilities. All [B, T]."""
    return float(((first - second) * mask).abs().max())
