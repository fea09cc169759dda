"""The GRPO stage: TRL's GRPOTrainer on several completions per prompt, with the rewards of the PPO stage."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from alignment.data.arguments import DataArguments
from alignment.errors import UserError, raise_all
from alignment.models.checkpoints import is_adapter
from alignment.models.generation import plain_generation
from alignment.models.loading import load_tokenizer
from alignment.stages import CAUSAL_LM, CLASSIFIER, STAGES
from alignment.stages.self_check.policy_checks import grpo_checks, starts_from
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.inputs import load_data, loading_options
from alignment.stages.shared.lora import (
    ModelArguments,
    Start,
    adapt_trainer,
    adapter_in_32_bit,
    check_adapter,
    complete_reference,
    expose_head_bias,
    starting_point,
)
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.rollouts import RewardSources, load_rewards, without_long_prompts
from alignment.stages.shared.stage_keys import StageKeys
from alignment.stages.shared.stage_run import StageRun
from alignment.tokenization.chat_format import require_template
from reward_models.calls import distinct
from reward_models.learned import load_members
from reward_models.opinions import Opinions

PARENTS = {"model_name_or_path": CAUSAL_LM, "reward_model_path": CLASSIFIER}
CHOICES = {  # TRL checks them only after the first rollout
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none"),
}


@dataclass
class GRPORecipe(StageKeys, GRPOConfig):
    """TRL's `GRPOConfig` without dropout, with which the policy would differ from its reference before any step."""

    disable_dropout: bool = field(default=True, metadata={"help": "Turn off dropout in policy and reference."})

    def __post_init__(self):
        raise_all([*self._too_small()])
        super().__post_init__()
        raise_all([*self._unknown_choices(), *self._incompatible()])

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps per rollout."""
        return max(1, self.steps_per_generation * self.num_iterations // self.gradient_accumulation_steps)

    def _too_small(self) -> Iterator[UserError]:
        lows = {"num_generations": 2, "num_iterations": 1, "max_completion_length": 1, "temperature": 1e-6, "beta": 0}
        for name, low in lows.items():
            if getattr(self, name) is None or getattr(self, name) < low:
                yield UserError(f"{name} is too small", got=getattr(self, name), expected=f"at least {low}")

    def _unknown_choices(self) -> Iterator[UserError]:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                expected = "one of " + ", ".join(choices)
                yield UserError(f"{name} has an unknown value", got=repr(getattr(self, name)), expected=expected)

    def _incompatible(self) -> Iterator[UserError]:
        rollout, accumulation = self.steps_per_generation * self.num_iterations, self.gradient_accumulation_steps
        if self.steps_per_generation % accumulation and accumulation % rollout:
            yield UserError(
                "rollouts and optimizer steps do not end together, so that training could not resume from a checkpoint",
                got=f"steps_per_generation={self.steps_per_generation}, gradient_accumulation_steps={accumulation}",
                expected="steps_per_generation a multiple of gradient_accumulation_steps",
            )
        keeps_best = self.load_best_model_at_end or self.save_strategy == SaveStrategy.BEST
        if keeps_best and self.eval_strategy == IntervalStrategy.STEPS and self.eval_steps % self.steps_per_rollout:
            yield UserError(
                "the best checkpoint could lie inside a rollout, from which training cannot resume",
                got=f"eval_steps={self.eval_steps}, with {self.steps_per_rollout} steps per rollout",
                expected=f"eval_steps a multiple of {self.steps_per_rollout}",
            )
        if self.sync_ref_model and self.beta == 0:
            yield UserError("sync_ref_model has no reference to update", got="beta=0", fix="a beta, or leave it out")
        if self.use_vllm and importlib.util.find_spec("vllm") is None:
            yield UserError("use_vllm: true, but vLLM is not installed", fix="pip install vllm, or use_vllm: false")
        if self.use_transformers_continuous_batching and (self.bf16 or self.fp16):
            yield UserError(
                "continuous batching would convert the trained weights to 16 bit",
                got=f"use_transformers_continuous_batching: true, bf16: {self.bf16}, fp16: {self.fp16}",
                fix="bf16: false, or use_transformers_continuous_batching: false",
            )


CONFIGS = (GRPORecipe, DataArguments, ModelArguments, RewardSources)


def check(args: GRPORecipe, data: DataArguments, model_args: ModelArguments, sources: RewardSources) -> None:
    check_adapter(model_args, "grpo")
    require_template(model_args.model_name_or_path)
    if args.sync_ref_model and (model_args.use_peft or is_adapter(model_args.model_name_or_path)):
        raise UserError(
            "sync_ref_model needs a policy whose weights are all trained",
            got="an adapter, whose reference is the model that it started from",
            fix="sync_ref_model: false",
        )


def run(
    args: GRPORecipe,
    data: DataArguments,
    model_args: ModelArguments,
    sources: RewardSources,
    callbacks: Sequence[TrainerCallback] = (),
) -> StageResult:
    parent = model_args.model_name_or_path
    stage = StageRun("grpo", args, callbacks)
    trainer = make_trainer(args, data, model_args, sources, stage.folder, *stage.callbacks)
    require_inherited(trainer.processing_class, parent, args)
    checks = [starts_from(parent), grpo_checks(sources.reward_model_path)]
    # TRL sets temperature, top_p, top_k, min_p and repetition_penalty; transformers would take all other settings from
    # the checkpoint, and sample from another distribution than the one that is trained.
    with plain_generation(trainer.model):
        logged = ["reward", "reward_std", "kl", "entropy", "completions/mean_length"]
        metrics = stage.train(trainer, checks, logged=logged)
    parents = {"model_name_or_path": parent, "reward_model_path": sources.reward_model_path}
    return stage.finish(trainer, parents, data, metrics)


def make_trainer(
    args: GRPORecipe,
    data: DataArguments,
    model_args: ModelArguments,
    sources: RewardSources,
    stage_dir: Path,
    *callbacks: TrainerCallback,
) -> "RewardedTrainer":
    """Return TRL's trainer with policy, reference, tokenizer, rewards and prompts, ready to train."""
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    start_from = starting_point(model_args, loading_options(model_args), tokenizer, CAUSAL_LM, stage_dir)
    splits = load_data(data, STAGES["grpo"].data, args.seed, stage_dir, keep=None)
    splits = without_long_prompts(splits, start_from.model.config, tokenizer, args.max_completion_length, stage_dir)
    require_a_rollout(splits, args)
    if model_args.model_revision != "main":
        args.model_init_kwargs = {
            "revision": model_args.model_revision
        }  # for the reference of a full model, which TRL loads
    beta = args.beta
    if start_from.reference is not None:
        args.beta = 0.0  # otherwise TRL makes a reference from the newest adapter alone
    with adapter_in_32_bit(start_from.model):
        trainer = RewardedTrainer(
            model=start_from.model,
            reward_funcs=all_rewards(sources, args, splits),
            args=args,
            train_dataset=splits["train"],
            eval_dataset=splits.get("validation"),
            processing_class=tokenizer,
            peft_config=start_from.peft_config,
            callbacks=[*callbacks, *start_from.callbacks, OrderOfEpochs()],
        )
    args.beta = trainer.beta = beta
    give_reference(trainer, start_from)
    expose_head_bias(trainer.model)
    complete_reference(trainer.model)
    adapt_trainer(trainer, model_args)
    return trainer


class RewardedTrainer(GRPOTrainer):
    """TRL's trainer, which takes no reward for a reward of 0, and needs one.

    A completion that only rewards of weight 0 have scored has no reward, as in PPO; TRL would give it a reward of 0.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.opinions = Opinions(self.reward_func_names)

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(*args)  # of all processes: [B, rewards]
        judged = ~rewards[:, self.reward_weights.to(rewards.device) != 0].isnan().all(1)
        if self.model.training:
            self.opinions.see(len(rewards) // self.num_generations, int(judged.sum()))
        return rewards.masked_fill(~judged[:, None], torch.nan)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        self.opinions.require_any(self.state.log_history)
        return output


def give_reference(trainer: GRPOTrainer, start_from: Start) -> None:
    """Make the parent the reference, if TRL would not use it by default."""
    if start_from.reference is None or trainer.beta == 0:
        return
    reference = start_from.reference.eval()
    expose_head_bias(reference)
    add_fused_lm_head(reference, trainer.args.temperature, trainer.args.cast_lm_head_to_fp32)
    trainer.ref_model = trainer.accelerator.prepare_model(reference, evaluation_mode=True)


def all_rewards(sources: RewardSources, args: GRPORecipe, splits: DatasetDict) -> list[Callable]:
    """Load the reward model, then the functions, under distinct names: TRL logs rewards of one name together."""
    rewards: list[Any] = load_rewards(sources.reward_funcs, splits)
    if sources.reward_model_path:
        # TRL would not load an adapter, and would pass rows longer than the model's context.
        rewards[:0] = load_members([sources.reward_model_path], args.per_device_eval_batch_size, str(args.device))
    for reward, name in zip(rewards, distinct([reward.__name__ for reward in rewards]), strict=True):
        reward.__name__ = name
    return rewards


def require_a_rollout(splits: DatasetDict, args: GRPORecipe) -> None:
    """Raise if there are fewer prompts than one rollout needs: TRL drops prompts that do not fill a rollout."""
    expected = args.generation_batch_size // args.num_generations
    if len(splits["train"]) < expected:
        raise UserError(
            "there are too few prompts for one rollout",
            got=f"{len(splits['train'])} training prompts",
            expected=f"{expected}: {args.generation_batch_size} completions, {args.num_generations} per prompt",
            fix="more prompts, a smaller per_device_train_batch_size, or fewer steps_per_generation",
        )


class OrderOfEpochs(TrainerCallback):
    """Restores the order of the prompts when training resumes in a later epoch.

    TRL's sampler draws the order of each epoch from a generator that starts over with a new trainer.
    """

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        for _ in range(int(state.epoch)):
            next(iter(train_dataloader.get_sampler()))
