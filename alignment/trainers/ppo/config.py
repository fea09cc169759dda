"""The keys of a PPO recipe: the names of TRL's GRPO and RLOO if they have the key, and PPO's own."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

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

# At the policy's 1e-6 a critic hardly moves within a run; InstructGPT trained its critic at 9e-6, later PPOs at 1e-5.
LEAST_VALUE_LEARNING_RATE = 1e-5

# Keys of TRL's last PPO (trl 1.12) that have another name here, or none: docs/ppo-migration.md.
RENAMED_KEYS = {
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


@dataclass
class PPOConfig(TrainingArguments):
    """Arguments of `PPOTrainer`.

    A rollout is `per_device_train_batch_size * steps_per_generation` completions per process, one per prompt. The
    trainer passes over it `num_iterations` times, each time in `steps_per_generation / gradient_accumulation_steps`
    minibatches, with an optimizer step each. Forward passes without gradients run in batches of
    `per_device_eval_batch_size`.
    """

    RENAMED = RENAMED_KEYS  # build_configs names the new key of a recipe's old one

    learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate of the policy."})
    adam_epsilon: float = field(
        default=1e-5, metadata={"help": "Epsilon of Adam; larger than usual because PPO's gradients are often tiny."}
    )
    logging_steps: float = field(
        default=1, metadata={"help": "Optimizer steps between two logs; each log has the means since the previous log."}
    )
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Keep the columns besides `prompt`: the reward functions receive them."}
    )

    max_completion_length: int = field(
        default=256, metadata={"help": "Maximum number of tokens per completion; longer completions are truncated."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Temperature of sampling and of every log-probability."})
    sampler: str = field(
        default="generate",
        metadata={
            "help": "generate: all prompts in one padded batch; continuous_batching: transformers' paged engine, which "
            "starts the next prompt as soon as a completion ends."
        },
    )
    importance_sampling_clip: float | None = field(
        default=None,
        metadata={
            "help": "Weight the policy loss by the ratio of the training pass's probability to the sampler's, capped "
            "at this value (truncated importance sampling); needs sampler continuous_batching (default: off)."
        },
    )
    steps_per_generation: int | None = field(
        default=None,
        metadata={"help": "Micro-batches per rollout (default: gradient_accumulation_steps, that is one minibatch)."},
    )
    num_iterations: int = field(default=4, metadata={"help": "Passes over each rollout."})

    beta: float = field(
        default=0.05, metadata={"help": "Weight of the KL to the reference; with 0 no reference model is loaded."}
    )
    kl_estimator: str = field(
        default="k1", metadata={"help": "Estimator of the KL: k1 (unbiased), k2 or k3 (never negative, low variance)."}
    )
    kl_placement: str = field(
        default="reward", metadata={"help": "Where the KL is charged: reward (of each token) or loss (k2 and k3 only)."}
    )
    kl_target: float | None = field(
        default=None,
        metadata={"help": "Adapt beta to hold this KL, in nats per completion (default: beta is constant)."},
    )
    kl_horizon: float = field(
        default=10_000,
        metadata={"help": "Number of completions within which the adaptive beta changes by at most a fifth."},
    )
    epsilon: float = field(default=0.2, metadata={"help": "Clip range of the policy ratio."})
    delta: float | None = field(
        default=None,
        metadata={"help": "Upper bound of the ratio if the advantage is negative (dual clip; default: none)."},
    )
    entropy_coef: float = field(default=0.0, metadata={"help": "Weight of the entropy bonus in the loss."})
    critic_mode: str | None = field(
        default=None,
        metadata={
            "help": "separate: a separate model; shared_head: a value head on the policy's trunk; lora: an adapter "
            "on the policy's base. Default: lora if the policy is an adapter, otherwise separate."
        },
    )
    cliprange_value: float | None = field(
        default=0.2, metadata={"help": "Clip range of the critic's change within a rollout (null: off)."}
    )
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    gamma: float = field(default=1.0, metadata={"help": "Discount factor."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    lam_critic: float | None = field(default=None, metadata={"help": "Lambda of the critic's returns (default: lam)."})
    bootstrap_truncated: bool = field(
        default=False,
        metadata={"help": "Bootstrap truncated completions with the critic's value after their last token."},
    )
    whiten_rewards: bool = field(
        default=False,
        metadata={"help": "Scale token rewards to variance 1 over the rollout, without shifting their mean."},
    )
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Scale advantages to mean 0 and variance 1 over the rollout."}
    )
    value_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the critic (default: learning_rate, at least 1e-5)."},
    )
    critic_warmup_steps: int = field(
        default=0, metadata={"help": "Number of initial optimizer steps in which only the critic learns."}
    )
    target_kl: float | None = field(
        default=None,
        metadata={
            "help": "Once the approx_kl of a minibatch exceeds this, the rest of the rollout trains only the critic."
        },
    )

    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "Weight of each reward (default: all 1)."}
    )
    reward_baseline: float = field(
        default=0.0,
        metadata={"help": "Subtracted from the reward, for example the mean reward of the SFT demonstrations."},
    )
    reward_normalization: bool = field(
        default=False,
        metadata={"help": "Subtract the mean reward of the first rollout, that is of the initial policy, instead."},
    )
    reward_clip: float | None = field(
        default=None, metadata={"help": "Clip the reward minus the baseline to plus or minus this."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Subtracted from the reward of truncated completions."}
    )
    missing_eos_mode: str = field(
        default="subtract",
        metadata={
            "help": "subtract: subtract missing_eos_penalty; replace: replace the reward by -missing_eos_penalty."
        },
    )
    mask_truncated_completions: bool = field(
        default=False, metadata={"help": "Exclude truncated completions from the losses."}
    )

    ptx_coef: float = field(
        default=0.0, metadata={"help": "Weight of the language-model loss on the trainer's ptx_dataset (PPO-ptx)."}
    )
    ptx_max_length: int = field(
        default=512, metadata={"help": "Maximum number of tokens per text of the ptx_dataset; longer texts are cut."}
    )

    log_completions: bool = field(
        default=False,
        metadata={
            "help": "Write the completions of each rollout to OUTPUT_DIR/completions.jsonl, and log some of them."
        },
    )
    num_completions_to_print: int = field(
        default=4,
        metadata={
            "help": "With log_completions: number of completions that are logged as a table, every logging_steps."
        },
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> "PPOConfig":
        if old := [key for key in RENAMED_KEYS if key in kwargs and key not in cls.__dataclass_fields__]:
            raise UserError(
                "These keys of TRL's old PPOConfig have other names here.",
                got=", ".join(old),
                expected="; ".join(f"{key}: {RENAMED_KEYS[key]}" for key in old),
                fix="see docs/ppo-migration.md for all of them",
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
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
                yield UserError(f"{name} has an unknown value.", got=repr(getattr(self, name)), expected=expected)

    def _at_odds(self) -> Iterator[UserError]:
        accumulation = self.gradient_accumulation_steps
        if self.micro_batches_per_rollout < 1 or self.micro_batches_per_rollout % accumulation:
            yield UserError(
                "A rollout must consist of whole minibatches.",
                got=f"steps_per_generation={self.steps_per_generation}, gradient_accumulation_steps={accumulation}",
                expected="steps_per_generation a multiple of gradient_accumulation_steps",
            )
        if self.kl_placement == "loss" and self.kl_estimator == "k1":
            yield UserError(
                "kl_placement: loss has no effect with k1.",
                got="kl_estimator: k1, whose gradient is zero in expectation",
                expected="kl_estimator k2 (the gradient of the KL) or k3",
            )
        if self.reward_normalization and self.reward_baseline:
            yield UserError(
                "reward_normalization and reward_baseline exclude each other.",
                got=f"reward_baseline={self.reward_baseline}",
            )
        if self.importance_sampling_clip is not None and self.sampler == "generate":
            yield UserError(
                "importance_sampling_clip needs the sampler's probabilities, which generate does not return.",
                expected="sampler: continuous_batching",
            )
        # The best checkpoint is written at the step of its evaluation; the others can wait for the end of a rollout.
        keeps_best = self.load_best_model_at_end or self.save_strategy == SaveStrategy.BEST
        steps = max(self.steps_per_rollout, 1)
        if keeps_best and self.eval_strategy == IntervalStrategy.STEPS and self.eval_steps % steps:
            yield UserError(
                "The best checkpoint could lie inside a rollout, from which training cannot resume.",
                got=f"eval_steps={self.eval_steps}, with {steps} steps per rollout",
                expected=f"eval_steps a multiple of {steps}",
            )
        if self.kl_target is not None and self.beta == 0:
            yield UserError("kl_target has no beta to adapt.", got="beta=0", expected="a positive beta to start from")

    @property
    def rollout_size(self) -> int:
        """Completions per rollout and process."""
        return self.per_device_train_batch_size * self.micro_batches_per_rollout

    @property
    def micro_batches_per_rollout(self) -> int:
        """Micro-batches that hold the rows of a rollout once."""
        return cast(int, self.steps_per_generation)  # __post_init__ replaces None

    @property
    def micro_steps_per_rollout(self) -> int:
        """Forward and backward passes per rollout."""
        return self.micro_batches_per_rollout * self.num_iterations

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps per rollout."""
        return self.micro_steps_per_rollout // self.gradient_accumulation_steps
