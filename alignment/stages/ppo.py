"""The PPO stage: our PPOTrainer on prompts, rewarded by a reward model, by functions, or by both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import load_splits
from alignment.models.loading import load_tokenizer
from alignment.stages import CAUSAL_LM, CLASSIFIER, STAGES
from alignment.stages.self_check.policy_checks import ppo_checks, starts_from
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.inputs import load_data, loading_options
from alignment.stages.shared.lora import ModelArguments, check_adapter, starting_point
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.rollouts import RewardSources, load_rewards, without_long_prompts
from alignment.stages.shared.stage_keys import StageKeys
from alignment.stages.shared.stage_run import StageRun
from alignment.tokenization.chat_format import require_template
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.trainer import PPOTrainer

PARENTS = {
    "model_name_or_path": CAUSAL_LM,
    "reward_model_path": CLASSIFIER,
    "value_model_path": CLASSIFIER,
}


@dataclass
class OtherSources:
    """Further models and data of PPO."""

    value_model_path: str | None = field(
        default=None,
        metadata={"help": "The checkpoint that the critic starts from; default: the reward model, or the policy."},
    )
    ptx_dataset_name: str | None = field(
        default=None, metadata={"help": "Pretraining text to train on as well, weighted by ptx_coef."}
    )


@dataclass
class PPORecipe(StageKeys, PPOConfig):
    """Our `PPOConfig`."""

    bf16: bool | None = field(default=None, metadata={"help": "Train in bf16; default: true if the hardware has it."})


CONFIGS = (PPORecipe, DataArguments, ModelArguments, RewardSources, OtherSources)


def check(
    args: PPORecipe, data: DataArguments, model_args: ModelArguments, sources: RewardSources, others: OtherSources
) -> None:
    check_adapter(model_args, "ppo")
    require_template(model_args.model_name_or_path)


def run(
    args: PPORecipe,
    data: DataArguments,
    model_args: ModelArguments,
    sources: RewardSources,
    others: OtherSources,
    callbacks: Sequence[TrainerCallback] = (),
) -> StageResult:
    parent = model_args.model_name_or_path
    stage = StageRun("ppo", args, callbacks)
    trainer = make_trainer(args, data, model_args, sources, others, stage.folder, *stage.callbacks)
    require_inherited(trainer.processing_class, parent, args)
    metrics = stage.train(
        trainer,
        [starts_from(parent), ppo_checks(sources.reward_model_path)],
        logged=["reward", "kl", "kl/completion", "entropy", "completions/mean_length"],
        not_counted=trainer.critic.trained().values(),
    )
    parents = {
        "model_name_or_path": parent,
        "reward_model_path": sources.reward_model_path,
        "value_model_path": others.value_model_path,
    }
    return stage.finish(trainer, parents, data, metrics)


def make_trainer(
    args: PPORecipe,
    data: DataArguments,
    model_args: ModelArguments,
    sources: RewardSources,
    others: OtherSources,
    stage_dir: Path,
    *callbacks: TrainerCallback,
) -> PPOTrainer:
    """Return our trainer with policy, reference, critic, tokenizer, rewards and prompts, ready to train."""
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    start_from = starting_point(model_args, loading_options(model_args), tokenizer, CAUSAL_LM, stage_dir)
    splits = load_data(data, STAGES["ppo"].data, args.seed, stage_dir, keep=None)
    rewards: list[str | Callable] = [*load_rewards(sources.reward_funcs, splits)]
    if sources.reward_model_path:
        rewards.insert(0, sources.reward_model_path)
    splits = without_long_prompts(splits, start_from.model.config, tokenizer, args.max_completion_length, stage_dir)
    return PPOTrainer(
        model=start_from.model,
        reward_funcs=rewards,
        args=args,
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        value_model=others.value_model_path,
        ptx_dataset=pretraining_texts(others.ptx_dataset_name, args.seed),
        ref_model=start_from.reference,
        peft_config=start_from.peft_config,
        callbacks=[*callbacks, *start_from.callbacks],
    )


def pretraining_texts(name: str | None, seed: int) -> Dataset | None:
    return None if name is None else load_splits(DataArguments(name, eval_share=0), "text", seed)["train"]
