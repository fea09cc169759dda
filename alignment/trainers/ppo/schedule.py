"""The micro-batches of a rollout: their order, the token count of each optimizer step, and what learns in it."""

import torch
from torch import Tensor

from alignment.trainers.ppo import maths
from alignment.trainers.ppo.config import PPOConfig
from alignment.trainers.ppo.experience import Experience
from alignment.trainers.ppo.metrics import WeightedMean
from alignment.trainers.ppo.rollout import keyed_generator


class RolloutSchedule:
    """State of the training loop between the micro-batches of a rollout.

    A rollout is trained on in `args.micro_steps_per_rollout` micro-batches: `num_iterations` passes over its rows, each
    in a new order.

    Args:
        total: sums over all processes.

    Attributes:
        policy_learns: whether the policy learns in the current optimizer step; if not, the critic learns alone.
        place_in_step: place of the current micro-batch in its optimizer step.
        step_kl: mean approx_kl of the current optimizer step.
    """

    def __init__(self, args: PPOConfig, total: maths.Total):
        self.args, self.total = args, total
        self.policy_learns = True
        self.place_in_step = 0
        self.step_kl = WeightedMean()
        self._policy_stopped = False
        self._micro_step = 0
        self._micro_batches: list[Tensor] = []
        self._num_tokens = torch.ones(())

    def restart(self) -> None:
        """Begin with a new rollout."""
        self._micro_step = 0

    @property
    def needs_rollout(self) -> bool:
        """Whether the next micro-batch is the first of a rollout."""
        return self._micro_step == 0

    @property
    def needs_step(self) -> bool:
        """Whether the next micro-batch is the first of an optimizer step."""
        return self._micro_step % self.args.gradient_accumulation_steps == 0

    def start_step(self, step: int) -> None:
        """Decide whether the policy learns: not in the critic's warm-up, nor once it has moved further than target_kl.

        Args:
            step: number of the optimizer step.
        """
        args = self.args
        if step % args.steps_per_rollout == 0:
            self._policy_stopped = False
        elif args.target_kl is not None:
            seen = self.total(torch.tensor([self.step_kl.total, self.step_kl.weight], device=args.device))
            self._policy_stopped |= bool(seen[0] > args.target_kl * seen[1])
        self.step_kl = WeightedMean()
        self.policy_learns = step >= args.critic_warmup_steps and not self._policy_stopped

    def next_micro_batch(self, experience: Experience, step: int) -> tuple[Tensor, Tensor]:
        """Rows of the next micro-batch, and the token count of its optimizer step over all processes.

        Args:
            step: number of the optimizer step.
        """
        args, loss_mask = self.args, experience.targets.loss_mask
        place = self._micro_step % args.micro_batches_per_rollout
        if place == 0:
            generator = keyed_generator("minibatches", args.seed, step)
            order = torch.randperm(args.rollout_size, generator=generator).to(loss_mask.device)
            self._micro_batches = experience.rollout.micro_batches(
                order, args.per_device_train_batch_size, args.gradient_accumulation_steps
            )
        self.place_in_step = place % args.gradient_accumulation_steps
        if self.place_in_step == 0:
            minibatch = torch.cat(self._micro_batches[place : place + args.gradient_accumulation_steps])
            self._num_tokens = self.total(loss_mask[minibatch].sum()).clamp(min=1)
        self._micro_step = (self._micro_step + 1) % args.micro_steps_per_rollout
        return self._micro_batches[place], self._num_tokens
