"""What is sampled comes from the weights that are trained, and the KL is measured from where training starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from alignment.models.adapters import token_rows_in_place
from alignment.stages.self_check.check import Check, Outcome, moved_weights, tolerance
from alignment.stages.self_check.probe import compare, recorded
from alignment.stages.self_check.rewards import check_learned, check_samples, silent_rules
from alignment.trainers import ppo_math
from alignment.trainers.ppo_metrics import Metrics
from alignment.trainers.ppo_models import completion_logits, inner
from alignment.trainers.ppo_rollout import SAMPLERS, Rollout, encode_prompts, keyed_rng, sample
from alignment.trainers.ppo_trainer import PPOTrainer
from reward_models.learned import LearnedReward

PROMPTS = 4
SAMPLED_TOKENS = 32


def starts_from(checkpoint: str | None) -> Check:
    """The check that the model is the parent's."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        yield from compare("starts from its parent", recorded(checkpoint), trainer.model, trainer)

    return check


def ppo_checks(reward_model: str | None) -> Check:
    """The checks of a PPO trainer: sampler, KL, importance ratio, rewards."""

    def check(trainer: PPOTrainer) -> Iterator[Outcome]:
        rows = [trainer.train_dataset[index] for index in range(min(PROMPTS, len(trainer.train_dataset)))]
        prompts = encode_prompts(rows, trainer.processing_class)
        with shorter(trainer.args):
            yield from check_sampler(trainer, prompts, trainer.args.sampler, trainer.eos_token_ids)
            rollout, samples, _ = trainer._make_rollout(rows, ("self-check", trainer.args.seed), Metrics())
        mask, old = rollout.completion_mask, rollout.tensors["old_log_probs"]
        new = log_probs(trainer.model, rollout, trainer.args.temperature)
        yield ratio_outcome(trainer, largest_ratio(new, old, mask))
        if trainer.reference is not None:
            reference = reference_log_probs(trainer, rollout)
            yield kl_outcome(trainer, largest_ratio(old, reference, mask))
            with moved_weights(trainer.model):
                moved = reference_log_probs(trainer, rollout)
            yield Outcome(
                "reference stays",
                largest_ratio(reference, moved, mask),
                failure="the reference moves with the policy, so that the KL would stay 0 whatever is trained",
                mend="report it with the recipe",
            )
        yield from check_samples(trainer, samples, recorded(reward_model))

    return check


def grpo_checks(reward_model: str | None) -> Check:
    """The checks of TRL's GRPO trainer: sampler, KL, rewards. It makes the ratio 1 by its definition."""

    def check(trainer: Trainer) -> Iterator[Outcome]:
        tokenizer, count = trainer.processing_class, trainer.args.num_generations_eval or trainer.args.num_generations
        rows = [trainer.train_dataset[index] for index in range(min(PROMPTS, len(trainer.train_dataset)))]
        prompts = encode_prompts(rows, tokenizer)
        ends = inner(trainer.model).generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        with shorter(trainer.args):
            rollout = yield from check_sampler(trainer, prompts, "generate", ends)
        measured = first_group(trainer, rows[:1] * count)
        if "kl" in measured:
            yield kl_outcome(trainer, abs(measured["kl"]))
        texts = tokenizer.batch_decode(rollout.completion_ids, skip_special_tokens=True)
        talks = [
            [{"role": "assistant", "content": text}] if not isinstance(row["prompt"], str) else text
            for row, text in zip(rows, texts, strict=True)
        ]
        learned = [reward for reward in trainer.reward_funcs if isinstance(reward, LearnedReward)]
        yield from check_learned(trainer, learned, [row["prompt"] for row in rows], talks, recorded(reward_model))
        names = [name for name in trainer.reward_func_names if f"rewards/{name}/mean" in measured]
        known = {reward.__name__ for reward in learned}
        said = {name: [measured[f"rewards/{name}/{figure}"] for figure in ("mean", "std")] for name in names}
        yield from silent_rules({name: torch.tensor(values) for name, values in said.items() if name not in known})

    return check


@contextmanager
def shorter(args: TrainingArguments) -> Iterator[None]:
    """Completions of a few tokens: what is compared is compared at each of them."""
    whole, args.max_completion_length = args.max_completion_length, min(SAMPLED_TOKENS, args.max_completion_length)
    try:
        yield
    finally:
        args.max_completion_length = whole


def first_group(trainer: Trainer, rows: list[dict[str, Any]]) -> dict[str, float]:
    """What TRL measures of a group of completions that it samples, rewards and compares with the reference."""
    trainer.prediction_step(trainer.model, rows, prediction_loss_only=True)
    return {name: values[-1] for name, values in trainer._metrics["eval"].items() if values}


def check_sampler(trainer: Trainer, prompts: list[list[int]], sampler: str, ends: list[int]) -> Iterator[Outcome]:
    """With some weights moved, so that a sampler that runs other ones shows: its log-probabilities are training's.

    Returns (to `yield from`): the rollout.
    """
    args, model, pad = (
        trainer.args,
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class.pad_token_id,
    )
    options = {
        "max_completion_length": args.max_completion_length,
        "temperature": args.temperature,
        "eos_token_ids": ends,
        "pad_token_id": ends[0] if pad is None else pad,
    }
    wanted = {"log_probs": True} if SAMPLERS[sampler] is sample else {}
    with moved_weights(model):
        with keyed_rng(args.device, "self-check", args.seed), token_rows_in_place(inner(model)):
            rollout = SAMPLERS[sampler](inner(model), prompts, **options, **wanted)
        trained = log_probs(model, rollout, args.temperature)
    mask = rollout.completion_mask
    yield Outcome(
        "sampler = trained weights",
        largest_ratio(rollout.tensors["sampler_log_probs"], trained, mask),
        tolerance(trainer),
        failure="completions are sampled from other weights than those that are trained",
        mend="sampler: generate; use_vllm: false; see that the adapter is part of the model that samples",
    )
    same = log_probs(model, rollout, args.temperature)
    yield Outcome(
        "trained weights matter",
        float(torch.equal(same[mask], trained[mask])),
        failure="moving the trained weights changes no log-probability",
        mend="see that the adapter sits on layers that the model runs",
    )
    return rollout


def reference_log_probs(trainer: PPOTrainer, rollout: Rollout) -> Tensor:
    with trainer.reference.active() as model:
        return log_probs(model, rollout, trainer.args.temperature)


def log_probs(model: nn.Module, rollout: Rollout, temperature: float) -> Tensor:
    """Of the completion tokens, by the pass that training makes, all rows together. -> [B, T]."""
    batch = rollout.batch(torch.arange(len(rollout.lengths), device=rollout.lengths.device))
    return ppo_math.token_log_probs(completion_logits(model, batch, temperature), batch["completion_ids"])


def largest_ratio(one: Tensor, other: Tensor, mask: Tensor) -> float:
    return float(((one - other) * mask).abs().max())


def kl_outcome(trainer: Trainer, difference: float) -> Outcome:
    return Outcome(
        "KL 0",
        difference,
        tolerance(trainer),
        failure="the KL is measured from another model than the one that training starts from",
        mend="start from the checkpoint that the reference is",
    )


def ratio_outcome(trainer: Trainer, difference: float) -> Outcome:
    return Outcome(
        "ratio 1",
        difference,
        tolerance(trainer),
        failure="training's log-probabilities of fresh completions are not those that the rollout recorded",
        mend="another attn_implementation; a padding token that is not the end-of-sequence token",
    )
