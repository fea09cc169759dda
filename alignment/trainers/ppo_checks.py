"""Refusals: what PPOTrainer cannot do with what it was given, said before any training."""

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.errors import UserError
from alignment.trainers.ppo_config import PPOConfig


def check_arguments(args: PPOConfig, train_dataset, eval_dataset) -> None:
    """One process, and data sets with prompts."""
    if args.world_size > 1 or args.n_gpu > 1 or args.deepspeed or args.fsdp:
        raise UserError(
            "PPO trains in one process on one device.",
            got=f"{args.world_size} processes, {args.n_gpu} GPUs visible to each",
            mend="launch with python rather than accelerate, and set CUDA_VISIBLE_DEVICES=0",
        )
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
                mend="name the column of the prompts `prompt`",
            )


def check_one_tokenizer(
    tokenizer: PreTrainedTokenizerBase, reward_processing_classes, scorers: list[nn.Module]
) -> None:
    """Reward models and critic read the policy's token ids as they are."""
    if reward_processing_classes is None:
        reward_processing_classes = []
    elif not isinstance(reward_processing_classes, list):
        reward_processing_classes = [reward_processing_classes]
    for other in reward_processing_classes:
        if other is not None and other.get_vocab() != tokenizer.get_vocab():
            raise UserError("A reward model has another tokenizer than the policy.", needed="the same vocabulary")
    for scorer in scorers:
        if scorer.config.vocab_size < len(tokenizer):
            raise UserError(
                "A reward model or critic has a smaller vocabulary than the tokenizer.",
                got=f"vocab_size {scorer.config.vocab_size} of {scorer.config.name_or_path or type(scorer).__name__}",
                needed=f"at least {len(tokenizer)}: a model trained with the policy's tokenizer",
            )


def check_weights(weights: list[float] | None, rewards: list) -> None:
    """A weight for each reward."""
    if weights is not None and len(weights) != len(rewards):
        raise UserError("reward_weights does not fit the rewards.", got=len(weights), needed=len(rewards))


def check_resumable(path: str, step: int, args: PPOConfig) -> None:
    """A checkpoint holds no rollout, so training goes on from the start of one."""
    if step % args.steps_per_rollout:
        raise UserError(
            "The checkpoint lies inside a rollout.",
            got=f"{path} at step {step}, with {args.steps_per_rollout} steps a rollout",
            needed="a step that is a multiple of the steps a rollout",
            mend=f"resume from another checkpoint, and save every multiple of {args.steps_per_rollout} steps",
        )


def find_eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end a completion: end of turn and end of text, by the generation config and the tokenizer."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    found = sorted({token for token in [*ids, tokenizer.eos_token_id] if token is not None})
    if not found:
        raise UserError(
            "Neither the model's generation config nor the tokenizer names an end-of-sequence token.",
            mend="set eos_token_id in generation_config.json",
        )
    return found
