"""The PPO stage: our PPOTrainer on prompts, rewarded by a reward model, by functions, or by both."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import TrainerCallback

from alignment.callbacks.out_of_memory import Guarded
from alignment.callbacks.step_checkpoints import Resumable
from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import load_splits
from alignment.models.loading import load_tokenizer
from alignment.stages.self_check.policy_checks import ppo_checks, starts_from
from alignment.stages.self_check.prove import SelfChecked, self_check
from alignment.stages.shared.defaults import HardwareDefaults
from alignment.stages.shared.inherited import require_inherited
from alignment.stages.shared.lora import ModelArguments, check_adapter, starting_point
from alignment.stages.shared.rollouts import RewardSources, without_long_prompts
from alignment.stages.shared.stage_run import (
    StageResult,
    count_parameters,
    finish,
    load_data,
    loading_options,
    start,
    train,
)
from alignment.tokenization.chat_format import require_template
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.trainer import PPOTrainer
from reward_models.functions import load_function

PARENTS = {
    "model_name_or_path": "causal-lm",
    "reward_model_path": "sequence-classification",
    "value_model_path": "sequence-classification",
}
DATA_KIND = "prompts"


@dataclass
class OtherSources:
    """What else PPO can learn from."""

    value_model_path: str | None = field(
        default=None, metadata={"help": "What the critic starts from; default: the reward model, or the policy."}
    )
    ptx_dataset_name: str | None = field(
        default=None, metadata={"help": "Pretraining text to go on learning from, by ptx_coef."}
    )


@dataclass
class PPORecipe(HardwareDefaults, Resumable, Guarded, SelfChecked, PPOConfig):
    """Our `PPOConfig`."""

    bf16: bool | None = field(default=None, metadata={"help": "Train in bf16; default: where the hardware has it."})


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
    stage_dir, own, clock = start(args)
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    start_from = starting_point(model_args, loading_options(model_args), tokenizer, "causal-lm", stage_dir)
    rewards = [load_function(spec) for spec in sources.reward_funcs]
    if sources.reward_model_path:
        rewards.insert(0, sources.reward_model_path)
    splits = load_data(data, DATA_KIND, args.seed, stage_dir, keep=None)
    splits = without_long_prompts(splits, start_from.model.config, tokenizer, args.max_completion_length)
    trainer = PPOTrainer(
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
        callbacks=[*own, *start_from.callbacks, *callbacks],
    )
    require_inherited(trainer.processing_class, model_args.model_name_or_path, args)
    counted = count_parameters(trainer.model, other_than=trainer.critic.trained().values())  # the policy's
    checked = self_check(trainer, [starts_from(model_args.model_name_or_path), ppo_checks(sources.reward_model_path)])
    tokens, metrics = train(trainer, ["reward", "kl", "kl/completion", "entropy", "completions/mean_length"])
    parents = {
        "model_name_or_path": model_args.model_name_or_path,
        "reward_model_path": sources.reward_model_path,
        "value_model_path": others.value_model_path,
    }
    return finish(
        trainer,
        stage_dir,
        clock,
        method="ppo",
        parents=parents,
        data=data.title,
        counted=counted,
        tokens=tokens,
        metrics=metrics,
        self_check=checked,
    )


def pretraining_texts(name: str | None, seed: int) -> Dataset | None:
    return None if name is None else load_splits(DataArguments(name, eval_share=0), "text", seed)["train"]
