"""The PPO stage: our PPOTrainer on prompts, rewarded by a reward model, by functions, or by both."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets import Dataset, DatasetDict
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, TrainerCallback

from alignment.data.arguments import DataArguments
from alignment.data.load import load_splits
from alignment.errors import UserError
from alignment.models.loading import load_tokenizer
from alignment.stages.adapters import ModelArguments, check_adapter, starting_point
from alignment.stages.checkpoints import Resumable
from alignment.stages.common import StageResult, count_parameters, finish, load_data, loading_options, start, train
from alignment.stages.defaults import HardwareDefaults
from alignment.stages.faults import Guarded
from alignment.stages.inherited import require_inherited
from alignment.tokenization.chat import require_template
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_rollout import encode_prompts
from alignment.trainers.ppo_trainer import PPOTrainer
from reward_models.functions import check_function, load_function

logger = logging.getLogger(__name__)

PARENTS = {
    "model_name_or_path": "causal-lm",
    "reward_model_path": "sequence-classification",
    "value_model_path": "sequence-classification",
}
DATA_KIND = "prompts"


@dataclass
class RewardSources:
    """What the completions are rewarded by; `reward_weights` follow this order: the model, then the functions."""

    reward_model_path: str | None = field(default=None, metadata={"help": "A reward model's checkpoint."})
    reward_funcs: list[str] = field(
        default_factory=list,
        metadata={"help": "Functions: path/to/file.py:name or package.module:name, with options ?key=value&key=value."},
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "PPOConfig's; here to be counted before any stage runs."}
    )

    def __post_init__(self):
        rewards = [self.reward_model_path, *self.reward_funcs] if self.reward_model_path else self.reward_funcs
        if not rewards:
            raise UserError("nothing gives a reward", needed="reward_model_path, reward_funcs or both")
        if self.reward_weights is not None and len(self.reward_weights) != len(rewards):
            raise UserError(
                "reward_weights does not fit the rewards",
                got=f"{self.reward_weights} for {', '.join(rewards)}",
                needed="a weight for the reward model if there is one, then one for each function",
                mend="reward_weights: null weighs each by 1",
            )
        for spec in self.reward_funcs:
            check_function(spec)  # a misspelt name is found before any stage runs


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
class PPORecipe(HardwareDefaults, Resumable, Guarded, PPOConfig):
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
    )


def pretraining_texts(name: str | None, seed: int) -> Dataset | None:
    return None if name is None else load_splits(DataArguments(name, eval_share=0), "text", seed)["train"]


def without_long_prompts(
    splits: DatasetDict, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_completion_length: int
) -> DatasetDict:
    """The prompts that leave room for a completion in the model's context; how many do not is said.

    Raises:
        UserError: none does.
    """
    context = getattr(config, "max_position_embeddings", None)
    if context is None:
        return splits
    room, kept = context - max_completion_length, {}
    for name, rows in splits.items():
        lengths = [len(prompt) for prompt in encode_prompts(rows.to_list(), tokenizer)]
        fitting = [index for index, length in enumerate(lengths) if length <= room]
        if not fitting:
            raise UserError(
                f"no prompt of the {name} split leaves room for a completion",
                got=f"prompts of {min(lengths)} tokens or more, max_completion_length={max_completion_length}",
                needed=f"at most {context} tokens together, the model's context",
                mend="shorten max_completion_length, or take shorter prompts",
            )
        if len(fitting) < len(lengths):
            dropped = len(lengths) - len(fitting)
            logger.info("%s: %d of %d prompts dropped: longer than %d tokens", name, dropped, len(lengths), room)
        kept[name] = rows.select(fitting)
    return DatasetDict(kept)
