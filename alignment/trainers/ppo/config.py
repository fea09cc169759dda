"""The keys of a PPO recipe: GRPO's and RLOO's names where TRL has them, and PPO's own."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from alignment.errors import UserError, raise_all

CHOICES = {
    "kl_estimator": ("k1", "k2", "k3"),
    "kl_placement": ("reward", "loss"),
    "missing_eos_mode": ("subtract", "replace"),
    "sampler": ("generate", "continuous_batching"),
    "critic_mode": (None, "separate", "shared_head", "lora"),
}

# At the policy's 1e-6 a critic hardly moves in a run; 1e-5 is what InstructGPT (9e-6) and later PPOs train it with.
LEAST_VALUE_LEARNING_RATE = 1e-5

# The keys of TRL's last PPO (trl 1.12) that are called otherwise here, or gone: docs/ppo-migration.md.
RENAMED = {
    "cliprange": "epsilon",
    "kl_coef": "beta",
    "num_ppo_epochs": "num_iterations",
    "response_length": "max_completion_length",
    "local_rollout_forward_batch_size": "per_device_eval_batch_size",
    "num_mini_batches": "steps_per_generation (minibatches x gradient_accumulation_steps)",
    "total_episodes": "max_steps or num_train_epochs",
    "num_sample_generations": "log_completions",
    "stop_token": "eos_token_id in the model's generation config",
    "stop_token_id": "eos_token_id in the model's generation config",
    "sft_model_path": "the trainer's argument model (model_name_or_path in a recipe)",
    "reward_model_path": "the trainer's argument reward_funcs",
    "model_adapter_name": "the policy's active adapter",
    "ref_adapter_name": "an adapter named ref that the policy comes with",
    "dataset_num_proc": "nothing: the trainer tokenizes the prompts",
    "batch_size": "per_device_train_batch_size x steps_per_generation",
    "local_batch_size": "per_device_train_batch_size x steps_per_generation",
    "mini_batch_size": "per_device_train_batch_size x gradient_accumulation_steps",
    "local_mini_batch_size": "per_device_train_batch_size x gradient_accumulation_steps",
    "micro_batch_size": "per_device_train_batch_size",
    "num_total_batches": "max_steps or num_train_epochs",
    "world_size": "nothing: the launcher decides",
    "ds3_gather_for_generation": "nothing: DeepSpeed is refused",
}


def names_renamed_keys(cls: type) -> type:
    """Let a config's constructor answer for the keys that it no longer has."""
    construct = cls.__init__

    @functools.wraps(construct)
    def __init__(self, *args, **kwargs):
        if old := [key for key in RENAMED if key in kwargs and key not in cls.__dataclass_fields__]:
            raise UserError(
                "these keys of TRL's old PPOConfig are called otherwise here",
                got=", ".join(old),
                expected="; ".join(f"{key}: {RENAMED[key]}" for key in old),
                fix="docs/ppo-migration.md has them all",
            )
        construct(self, *args, **kwargs)

    cls.__init__, cls.RENAMED = __init__, RENAMED
    return cls


@names_renamed_keys
@dataclass
class PPOConfig(TrainingArguments):
    """Arguments of `PPOTrainer`.

    A rollout is `per_device_train_batch_size * steps_per_generation` completions a process, one a prompt. It is
    trained on `num_iterations` times, each time in `steps_per_generation / gradient_accumulation_steps` minibatches, an
    optimizer step each. Forward passes without gradients go in batches of `per_device_eval_batch_size`.
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate of the policy."})
    adam_epsilon: float = field(
        default=1e-5, metadata={"help": "Epsilon of Adam; larger than usual, since PPO's gradients are often tiny."}
    )
    logging_steps: float = field(
        default=1, metadata={"help": "Log every this many optimizer steps: means since the last log."}
    )
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Columns beside `prompt` go to the reward functions."}
    )

    max_completion_length: int = field(
        default=256, metadata={"help": "Most tokens a completion may have; longer ones are truncated."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Sampling temperature, and that of every log-probability."}
    )
    sampler: str = field(
        default="generate",
        metadata={
            "help": "generate: all prompts in one padded batch; continuous_batching: transformers' paged engine, which "
            "takes up the next prompt where a completion ends."
        },
    )
    importance_sampling_clip: float | None = field(
        default=None,
        metadata={
            "help": "Weigh the policy loss by the ratio of the training pass's probability to the sampler's, at most "
            "this (truncated importance sampling); for sampler continuous_batching (default: off)."
        },
    )
    steps_per_generation: int | None = field(
        default=None,
        metadata={"help": "Micro-batches in a rollout (default: gradient_accumulation_steps, so one minibatch)."},
    )
    num_iterations: int = field(default=4, metadata={"help": "Passes over each rollout."})

    beta: float = field(
        default=0.05, metadata={"help": "Weight of the KL to the reference; 0 needs no reference model."}
    )
    kl_estimator: str = field(
        default="k1", metadata={"help": "Estimator of the KL: k1 (unbiased), k2 or k3 (never negative, low variance)."}
    )
    kl_placement: str = field(
        default="reward", metadata={"help": "Where the KL counts: in each token's reward, or in the loss (k2, k3)."}
    )
    kl_target: float | None = field(
        default=None, metadata={"help": "Adapt beta to hold this KL, in nats a completion (default: beta stays)."}
    )
    kl_horizon: float = field(
        default=10_000,
        metadata={"help": "Completions in which the adaptive beta moves by a fifth at most."},
    )
    epsilon: float = field(default=0.2, metadata={"help": "Clip range of the policy ratio."})
    delta: float | None = field(
        default=None,
        metadata={"help": "Bound of the ratio where the advantage is negative (dual clip; default: none)."},
    )
    entropy_coef: float = field(default=0.0, metadata={"help": "Weight of the entropy, which the loss then rewards."})
    critic_mode: str | None = field(
        default=None,
        metadata={
            "help": "separate: a model of its own; shared_head: a value head on the policy's trunk; lora: an adapter "
            "on the policy's base. Default: lora where the policy is an adapter, else separate."
        },
    )
    cliprange_value: float | None = field(
        default=0.2, metadata={"help": "Clip range of the critic's move within a rollout (null: off)."}
    )
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    gamma: float = field(default=1.0, metadata={"help": "Discount."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    lam_critic: float | None = field(
        default=None, metadata={"help": "Lambda of the returns that the critic learns (default: lam)."}
    )
    bootstrap_truncated: bool = field(
        default=False, metadata={"help": "Count the critic's value after the last token of truncated completions."}
    )
    whiten_rewards: bool = field(
        default=False, metadata={"help": "Scale token rewards to variance 1 over the rollout, without shifting them."}
    )
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Scale advantages to mean 0 and variance 1 over the rollout."}
    )
    value_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the critic (default: learning_rate, but at least 1e-5)."},
    )
    critic_warmup_steps: int = field(
        default=0, metadata={"help": "First optimizer steps in which only the critic learns."}
    )
    target_kl: float | None = field(
        default=None,
        metadata={"help": "Once a minibatch's approx_kl exceeds this, the rest of the rollout trains the critic only."},
    )

    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each reward (default: all 1)."}
    )
    reward_baseline: float = field(
        default=0.0, metadata={"help": "Taken off the reward: the mean reward of SFT demonstrations, say."}
    )
    reward_normalization: bool = field(
        default=False,
        metadata={"help": "Take off the mean reward of the first rollout, the starting policy's own, in its place."},
    )
    reward_clip: float | None = field(
        default=None, metadata={"help": "Clip the reward, less the baseline, to +- this."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Taken off the reward of truncated completions."}
    )
    missing_eos_mode: str = field(
        default="subtract", metadata={"help": "subtract the missing_eos_penalty, or replace the reward by -penalty."}
    )
    mask_truncated_completions: bool = field(
        default=False, metadata={"help": "Leave truncated completions out of the losses."}
    )

    ptx_coef: float = field(
        default=0.0, metadata={"help": "Weight of the language-model loss on the trainer's ptx_dataset (PPO-ptx)."}
    )
    ptx_max_length: int = field(default=512, metadata={"help": "Longer texts of the ptx_dataset are cut to this."})

    log_completions: bool = field(
        default=False,
        metadata={"help": "Write each rollout's completions to OUTPUT_DIR/completions.jsonl, and log some of them."},
    )
    num_completions_to_print: int = field(
        default=4, metadata={"help": "With log_completions: how many are logged as a table, every logging_steps."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.steps_per_generation is None:
            self.steps_per_generation = self.gradient_accumulation_steps
        if self.value_learning_rate is None:
            self.value_learning_rate = max(self.learning_rate, LEAST_VALUE_LEARNING_RATE)
        if self.lam_critic is None:
            self.lam_critic = self.lam
        raise_all([*self._too_small(), *self._not_a_choice(), *self._at_odds()])

    def _too_small(self) -> Iterator[UserError]:
        lows = {"max_completion_length": 1, "num_iterations": 1, "temperature": 1e-6, "beta": 0, "ptx_max_length": 2}
        for name, low in lows.items():
            if getattr(self, name) < low:
                yield UserError(f"{name} is too small.", got=getattr(self, name), expected=f"at least {low}")
        if self.delta is not None and self.delta <= 1 + self.epsilon:
            yield UserError(
                "delta is too small.", got=self.delta, expected=f"more than 1 + epsilon = {1 + self.epsilon}"
            )
        if self.kl_target is not None and self.kl_target <= 0:
            yield UserError("kl_target is too small.", got=self.kl_target, expected="more than 0 nats")

    def _not_a_choice(self) -> Iterator[UserError]:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                expected = "one of " + ", ".join(map(str, choices))
                yield UserError(f"{name} is not a choice.", got=repr(getattr(self, name)), expected=expected)

    def _at_odds(self) -> Iterator[UserError]:
        accumulation = self.gradient_accumulation_steps
        if self.steps_per_generation < 1 or self.steps_per_generation % accumulation:
            yield UserError(
                "A rollout must hold whole minibatches.",
                got=f"steps_per_generation={self.steps_per_generation}, gradient_accumulation_steps={accumulation}",
                expected="steps_per_generation a multiple of gradient_accumulation_steps",
            )
        if self.kl_placement == "loss" and self.kl_estimator == "k1":
            yield UserError(
                "kl_placement: loss does nothing with k1.",
                got="kl_estimator: k1, whose gradient is 0 on average",
                expected="kl_estimator k2 (the gradient of the KL) or k3",
            )
        if self.reward_normalization and self.reward_baseline:
            yield UserError(
                "reward_normalization and reward_baseline exclude each other.",
                got=f"reward_baseline={self.reward_baseline}",
            )
        if self.importance_sampling_clip is not None and self.sampler == "generate":
            yield UserError(
                "importance_sampling_clip needs the sampler's probabilities, which generate does not tell.",
                expected="sampler: continuous_batching",
            )
        # The best checkpoint is written where the evaluation was; the others can wait for the end of a rollout.
        keeps_best = self.load_best_model_at_end or self.save_strategy == SaveStrategy.BEST
        steps = max(self.steps_per_rollout, 1)
        if keeps_best and self.eval_strategy == IntervalStrategy.STEPS and self.eval_steps % steps:
            yield UserError(
                "The best checkpoint could lie inside a rollout, from where training cannot go on.",
                got=f"eval_steps={self.eval_steps}, with {steps} steps a rollout",
                expected=f"eval_steps a multiple of {steps}",
            )
        if self.kl_target is not None and self.beta == 0:
            yield UserError("kl_target has no beta to adapt.", got="beta=0", expected="a beta to start from")

    @property
    def rollout_size(self) -> int:
        """Completions of a process in a rollout."""
        return self.per_device_train_batch_size * self.steps_per_generation

    @property
    def micro_steps_per_rollout(self) -> int:
        """Forward-backward passes of a rollout."""
        return self.steps_per_generation * self.num_iterations

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps of a rollout."""
        return self.micro_steps_per_rollout // self.gradient_accumulation_steps
