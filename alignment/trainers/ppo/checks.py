"""Checks of PPOTrainer's arguments before training."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from alignment.errors import UserError
from alignment.models.context_length import context_length
from alignment.models.generation import end_token_ids
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.rollout import encode_prompts
from alignment.trainers.sharding import sharding

Datasets: TypeAlias = Dataset | dict[str, Dataset] | None


def check_arguments(args: PPOConfig, train_dataset: Dataset | None, eval_dataset: Datasets, scheduler: Any) -> None:
    """Require one device per process with whole models, data sets with prompts, and no scheduler from outside."""
    if scheduler is not None:
        raise UserError(
            "A given scheduler does not cover the critic, whose parameters PPOTrainer adds to the optimizer.",
            got=f"optimizers=(..., {type(scheduler).__name__})",
            expected="optimizers=(optimizer, None)",
            fix="set lr_scheduler_type and lr_scheduler_kwargs instead",
        )
    if args.n_gpu > 1:
        raise not_whole(f"{args.n_gpu} GPUs in one process")
    check_whole_models(args)
    eval_datasets = eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]
    for dataset in [train_dataset, *eval_datasets]:
        if dataset is None:
            continue
        if not hasattr(dataset, "__len__"):
            raise UserError("PPO needs data sets of known length.", got=type(dataset).__name__)
        if len(dataset) == 0 or "prompt" not in dataset[0]:
            raise UserError(
                "PPO needs data sets with a `prompt` column.",
                got=f"{len(dataset)} rows with columns {getattr(dataset, 'column_names', None)}",
                fix="rename the column of the prompts to `prompt`",
            )


def check_whole_models(args: PPOConfig, accelerator: Accelerator | None = None) -> None:
    """Require that nothing shards the models: neither arguments and environment nor, if given, the accelerator."""
    if (splits := sharding(args, accelerator)) is not None:
        raise not_whole(splits)


def not_whole(got: str) -> UserError:
    return UserError(
        "PPO needs one device per process, with whole models.",
        got=got,
        fix="start with `accelerate launch --multi_gpu`, without DeepSpeed and FSDP, or set CUDA_VISIBLE_DEVICES=0",
    )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> None:
    """Require a vocabulary that covers all of the tokenizer's tokens."""
    config: Any = getattr(model, "config", None)  # a head on another model's trunk has no config
    if config is not None and config.get_text_config().vocab_size < len(tokenizer):
        raise UserError(
            "A model has a smaller vocabulary than the tokenizer.",
            got=f"vocab_size {config.get_text_config().vocab_size} of {config.name_or_path or type(model).__name__}, "
            f"{len(tokenizer)} tokens",
            expected="a model trained with this tokenizer",
            fix="give the reward model's tokenizer in reward_processing_classes, or call resize_token_embeddings",
        )


def check_prompts(
    args: PPOConfig, datasets: Sequence[Datasets], tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> None:
    """Require prompts that have tokens and that leave room for a completion of max_completion_length."""
    context = context_length(config)
    flat = [part for given in datasets for part in (given.values() if isinstance(given, dict) else [given])]
    for dataset in flat:
        if dataset is None:
            continue
        rows = [{"prompt": prompt} for prompt in dataset["prompt"]]
        lengths = [len(prompt) for prompt in encode_prompts(rows, tokenizer)]
        if min(lengths) == 0:
            raise UserError(f"The prompt of row {lengths.index(0)} has no tokens.", expected="at least one token")
        too_long = [length for length in lengths if context and length + args.max_completion_length > context]
        if too_long:
            raise UserError(
                "A prompt and its completion may not fit the model's context.",
                got=f"{len(too_long)} of {len(lengths)} prompts, the longest with {max(too_long)} tokens, and "
                f"max_completion_length={args.max_completion_length}",
                expected=f"at most {context} tokens together",
                fix="reduce max_completion_length, or drop the long prompts",
            )


def check_weights(weights: list[float] | None, rewards: Sequence[Any]) -> None:
    """Require one weight per reward."""
    if weights is not None and len(weights) != len(rewards):
        raise UserError(
            "reward_weights does not fit the rewards.",
            got=len(weights),
            expected=len(rewards),
            fix="give a weight per reward, in the order of reward_funcs; null means a weight of 1 each",
        )


def check_columns(rewards: Sequence[Any], datasets: Sequence[Datasets]) -> None:
    """Require reward functions that can be called with the columns of each data set."""
    flat = [part for given in datasets for part in (given.values() if isinstance(given, dict) else [given])]
    for function in (reward.function for reward in rewards if hasattr(reward, "function")):
        for dataset in flat:
            if dataset is not None and dataset.column_names is not None:
                function.require_columns(dataset.column_names)


def check_resumable(path: str, step: int, args: PPOConfig) -> None:
    """Require a checkpoint between two rollouts, since checkpoints do not hold the rollout."""
    if step % args.steps_per_rollout:
        raise UserError(
            "The checkpoint lies inside a rollout.",
            got=f"{path} at step {step}, with {args.steps_per_rollout} steps per rollout",
            expected="a step that is a multiple of the steps per rollout",
            fix=f"resume from another checkpoint, and set save_steps to a multiple of {args.steps_per_rollout}",
        )


def find_eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`end_token_ids`, of which there has to be at least one."""
    found = end_token_ids(model, tokenizer)
    if not found:
        raise UserError(
            "Neither the model's generation config nor the tokenizer names an end-of-sequence token.",
            fix="set eos_token_id in generation_config.json",
        )
    return found
