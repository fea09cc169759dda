"""What is sampled comes from the weights that are trained, and the KL is measured from where training starts."""

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
from alignment.trainers.ppo.models import completion_logits, inner
from alignment.trainers.ppo.rollout import SAMPLERS, Rollout, encode_prompts, sample
from alignment.trainers.ppo.trainer import PPOTrainer
from reward_models.learned import LearnedReward

PROMPTS = 4
SAMPLED_TOKENS = 32


def starts_from(checkpoint: str | None) -> Check:
    """The check that the model is the parent's."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        yield from compare("starts from its parent", recorded(checkpoint), trainer.model)

    return check


def ppo_checks(reward_model: str | None) -> Check:
    """The checks of a PPO trainer: sampler, KL, importance ratio, rewards."""

    def check(trainer: PPOTrainer) -> Iterator[Outcome]:
        rows, temperature = first_prompts(trainer), trainer.args.temperature
        length = min(SAMPLED_TOKENS, trainer.args.max_completion_length)
        with replaced(trainer.args, max_completion_length=length):
            yield from check_sampler(trainer, encode_prompts(rows, trainer.processing_class))
            rollout, samples, _ = trainer._make_rollout(rows, ("self-check", trainer.args.seed), Metrics())
        mask, old = rollout.completion_mask, rollout.tensors["old_log_probs"]
        new = log_probs(trainer.model, rollout, temperature)
        yield ratio_outcome(trainer, largest_ratio(new, old, mask))
        if trainer.reference is not None:
            reference = reference_log_probs(trainer, rollout)
            yield kl_outcome(largest_ratio(new, reference, mask))
            with moved_weights(trainer.model):
                moved = reference_log_probs(trainer, rollout)
            yield reference_outcome(largest_ratio(reference, moved, mask) == 0)
        yield from check_samples(trainer, samples, recorded(reward_model))

    return check


def grpo_checks(reward_model: str | None) -> Check:
    """The checks of TRL's GRPO trainer, by its own path: sampler, KL, rewards. The ratio is 1 by its definition."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        count = trainer.args.num_generations_eval or trainer.args.num_generations
        prompts = first_prompts(trainer)
        rows = [row for row in (prompts[0], prompts[-1]) for _ in range(count)]
        # vLLM has weights of its own, which it takes over once a step: they would be left as they were moved.
        move = nullcontext() if trainer.args.use_vllm else moved_weights(trainer.model)
        with move:
            # Of the likeliest tokens: TRL's sampler gives no log-probabilities by which to tell its weights.
            measured, completions = sampled_group(trainer, rows, rewarded=False, temperature=1e-4)
            gaps = greedy_gaps(trainer, rows, completions)
        yield sampler_outcome(trainer, gaps)
        if "kl" in measured and not trainer.args.use_vllm:
            yield reference_outcome(measured["kl"] > 0)
        measured, completions = sampled_group(trainer, rows)
        if "kl" in measured:
            yield kl_outcome(math.sqrt(2 * max(measured["kl"], 0.0)))  # k3 is half the square of a small log-ratio
        yield from check_group(trainer, rows, completions, measured, recorded(reward_model))

    return check


def first_prompts(trainer: Trainer) -> list[dict[str, Any]]:
    return [trainer.train_dataset[index] for index in range(min(PROMPTS, len(trainer.train_dataset)))]


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes with other values, until the context ends."""
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
    """What TRL measures of short completions that it samples, rewards and compares with the reference; their tokens.

    Args:
        rewarded: by the recipe's rewards; else by none.
        sampling: settings of the generation config in place of the recipe's.
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
        "mask_truncated_completions": False,  # most of the short ones are, and the KL would be that of none
    }
    config = trainer.generation_config
    sampling |= {"max_new_tokens": min(SAMPLED_TOKENS, trainer.args.max_completion_length)}
    with replaced(trainer, **listening), replaced(config, **sampling):
        trainer.prediction_step(trainer.model, rows, prediction_loss_only=True)
    return {name: values[-1] for name, values in trainer._metrics["eval"].items() if values}, seen


def greedy_gaps(trainer: Trainer, rows: list[dict[str, Any]], completions: list[list[int]]) -> float:
    """By how much a sampled token was likelier than the likeliest one, at most, in nats of the training pass."""
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
    """The rewards of a group that GRPO has sampled."""
    texts = trainer.processing_class.batch_decode(completions, skip_special_tokens=True)
    talks = [
        text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
        for row, text in zip(rows, texts, strict=True)
    ]
    learned = [reward for reward in trainer.reward_funcs if isinstance(reward, LearnedReward)]
    yield from check_learned(trainer, learned, [row["prompt"] for row in rows], talks, probe)
    known = {reward.__name__ for reward in learned}
    for name in trainer.reward_func_names:
        if name not in known and f"rewards/{name}/mean" in measured:
            figures = [measured[f"rewards/{name}/{figure}"] for figure in ("mean", "std")]
            yield from silent_rule(name, torch.tensor(figures))


def check_sampler(trainer: PPOTrainer, prompts: list[list[int]]) -> Iterator[Outcome]:
    """With some weights moved, so that a sampler that runs other ones shows: its log-probabilities are training's."""
    args, model, pad = (
        trainer.args,
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class.pad_token_id,
    )
    options = {
        "max_completion_length": args.max_completion_length,
        "temperature": args.temperature,
        "eos_token_ids": trainer.eos_token_ids,
        "pad_token_id": trainer.eos_token_ids[0] if pad is None else pad,
    }
    sampler = SAMPLERS[args.sampler]
    wanted = {"log_probs": True} if sampler is sample else {}
    with moved_weights(model):
        with keyed_rng(args.device, "self-check", args.seed), token_rows_in_place(inner(model)):
            rollout = sampler(inner(model), prompts, **options, **wanted)
        trained = log_probs(model, rollout, args.temperature)
    mask = rollout.completion_mask
    yield sampler_outcome(trainer, largest_ratio(rollout.tensors["sampler_log_probs"], trained, mask))
    same = log_probs(model, rollout, args.temperature)
    yield Outcome(
        "trained weights matter",
        float(torch.equal(same[mask], trained[mask])),
        failure="moving the trained weights changes no log-probability",
        fix="see that the adapter sits on layers that the model runs",
    )


def sampler_outcome(trainer: Trainer, difference: float) -> Outcome:
    return Outcome(
        "sampler = trained weights",
        difference,
        tolerance(trainer),
        failure="completions are sampled from other weights than those that are trained",
        fix="sampler: generate; use_vllm: false; see that the adapter is part of the model that samples",
    )


def reference_log_probs(trainer: PPOTrainer, rollout: Rollout) -> Tensor:
    with trainer.reference.active() as model:
        return log_probs(model, rollout, trainer.args.temperature)


def log_probs(model: nn.Module, rollout: Rollout, temperature: float) -> Tensor:
    """Of the completion tokens, by the pass that training makes, all rows together. -> [B, T]."""
    batch = rollout.batch(torch.arange(len(rollout.lengths), device=rollout.lengths.device))
    return maths.token_log_probs(completion_logits(model, batch, temperature), batch["completion_ids"])


def largest_ratio(one: Tensor, other: Tensor, mask: Tensor) -> float:
    return float(((one - other) * mask).abs().max())


def kl_outcome(difference: float) -> Outcome:
    return Outcome(
        "KL 0",
        difference,
        SAME_PASS,
        failure="the KL is measured from another model than the one that training starts from",
        fix="start from the checkpoint that the reference is",
    )


def reference_outcome(stays: bool) -> Outcome:
    return Outcome(
        "reference stays",
        float(not stays),
        failure="the reference moves with the policy, so that the KL would stay 0 whatever is trained",
        fix="report it with the recipe",
    )


def ratio_outcome(trainer: Trainer, difference: float) -> Outcome:
    return Outcome(
        "ratio 1",
        difference,
        tolerance(trainer),
        failure="training's log-probabilities of fresh completions are not those that the rollout recorded",
        fix="another attn_implementation; a padding token that is not the end-of-sequence token",
    )
