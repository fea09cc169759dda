"""The keys of a PPO recipe: GRPO's and RLOO's names where TRL has them, and PPO's own."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from alignment.errors import UserError


@dataclass
class PPOConfig(TrainingArguments):
    """Arguments of `PPOTrainer`.

    A rollout is `per_device_train_batch_size * steps_per_generation` completions, one a prompt. It is trained on
    `num_iterations` times, each time in `steps_per_generation / gradient_accumulation_steps` minibatches, an optimizer
    step each. Forward passes without gradients go in batches of `per_device_eval_batch_size`.
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
    steps_per_generation: int | None = field(
        default=None,
        metadata={"help": "Micro-batches in a rollout (default: gradient_accumulation_steps, so one minibatch)."},
    )
    num_iterations: int = field(default=4, metadata={"help": "Passes over each rollout."})

    beta: float = field(
        default=0.05, metadata={"help": "Weight of the KL to the reference in the reward; 0 needs no reference."}
    )
    epsilon: float = field(default=0.2, metadata={"help": "Clip range of the policy ratio."})
    cliprange_value: float | None = field(
        default=0.2, metadata={"help": "Clip range of the critic's move within a rollout (null: off)."}
    )
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    gamma: float = field(default=1.0, metadata={"help": "Discount."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Scale advantages to mean 0 and variance 1 over the rollout."}
    )
    value_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the critic (default: learning_rate)."}
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
    reward_clip: float | None = field(
        default=None, metadata={"help": "Clip the reward, less the baseline, to +- this."}
    )
    missing_eos_penalty: float | None = field(
        default=None, metadata={"help": "Taken off the reward of truncated completions."}
    )
    mask_truncated_completions: bool = field(
        default=False, metadata={"help": "Leave truncated completions out of the losses."}
    )

    log_completions: bool = field(
        default=False, metadata={"help": "Write each rollout's completions to OUTPUT_DIR/completions.jsonl."}
    )

    def __post_init__(self):
        super().__post_init__()
        accumulation = self.gradient_accumulation_steps
        if self.steps_per_generation is None:
            self.steps_per_generation = accumulation
        if self.steps_per_generation < 1 or self.steps_per_generation % accumulation:
            raise UserError(
                "A rollout must hold whole minibatches.",
                got=f"steps_per_generation={self.steps_per_generation}, gradient_accumulation_steps={accumulation}",
                needed="steps_per_generation a multiple of gradient_accumulation_steps",
            )
        for name, low in [("max_completion_length", 1), ("num_iterations", 1), ("temperature", 1e-6), ("beta", 0)]:
            if getattr(self, name) < low:
                raise UserError(f"{name} is too small.", got=getattr(self, name), needed=f"at least {low}")
        if self.value_learning_rate is None:
            self.value_learning_rate = self.learning_rate

    @property
    def rollout_size(self) -> int:
        """Completions in a rollout."""
        return self.per_device_train_batch_size * self.steps_per_generation

    @property
    def micro_steps_per_rollout(self) -> int:
        """Forward-backward passes of a rollout."""
        return self.steps_per_generation * self.num_iterations

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps of a rollout."""
        return self.micro_steps_per_rollout // self.gradient_accumulation_steps
