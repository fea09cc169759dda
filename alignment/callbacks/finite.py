"""Keep training finite: skip steps whose gradient is not finite, and never save weights that are not finite."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from alignment.callbacks.processes import any_process
from alignment.callbacks.step_rows import describe, rows_of_step
from alignment.errors import Diverged, UserError

if TYPE_CHECKING:
    from transformers import TrainingArguments as Mixin  # the dataclass below is mixed into its subclasses
else:
    Mixin = object

logger = logging.getLogger(__name__)


@dataclass
class Guarded(Mixin):
    """Mixed in before a TrainingArguments class: the limit on skipped steps."""

    max_skipped_steps: int = field(
        default=5,
        metadata={
            "help": "Steps skipped in a row, because their gradient is not finite, after which training returns to its "
            "last step checkpoint; if it happens again, training ends."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_skipped_steps < 1:
            raise UserError("max_skipped_steps is too small", got=self.max_skipped_steps, expected="1 or more")


class FiniteGuard(TrainerCallback):
    """Skips optimizer steps whose gradient is not finite, and refuses to save weights that are not finite.

    A skipped step leaves weights and optimizer unchanged; the learning rate schedule and the data advance.

    Args:
        write: called with the trainer's state and the metrics that a skipped step adds.
    """

    def __init__(self, write: Callable[..., None]):
        self.write = write
        self.skipped_in_a_row = 0
        self.skipping = False

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.skipping = any_process(not are_finite(gradients), args)
        scaler = getattr(optimizer, "scaler", None)
        if self.skipping and scaler is not None and scaler.get_scale() > 1:
            self.skipping = False  # fp16's scaler skips the step itself, and reduces its scale
            return
        if not self.skipping:
            self.skipped_in_a_row = 0
            return
        for parameter in parameters:
            parameter.grad = None  # optimizers ignore it: neither momentum nor weight decay is applied

    def on_step_end(self, args, state, control, optimizer, processing_class=None, train_dataloader=None, **kwargs):
        if self.skipping:
            self.skipping = False
            self.skipped_in_a_row += 1
            rows = rows_of_step(train_dataloader, state.global_step - 1, args)
            place = describe(rows, train_dataloader, processing_class) if rows else None
            self.write(state, {"skipped_step": 1})
            step = f"epoch {state.epoch:.3g}, {place or 'rows unknown'}"
            logger.warning("step %d skipped: its gradient is not finite (%s)", state.global_step, step)
            if self.skipped_in_a_row >= args.max_skipped_steps:
                raise diverged(
                    f"the gradient was not finite in {self.skipped_in_a_row} steps in a row", place, state, args
                )
        if control.should_save:
            self._check_weights(optimizer, state, args)

    def on_evaluate(self, args, state, control, optimizer=None, **kwargs):
        # Trainer decides only after the evaluation whether to save the best model so far.
        if optimizer is not None and args.save_strategy == SaveStrategy.BEST:
            self._check_weights(optimizer, state, args)

    def on_epoch_end(self, args, state, control, optimizer, **kwargs):
        if control.should_save:
            self._check_weights(optimizer, state, args)

    def _check_weights(self, optimizer: torch.optim.Optimizer, state: TrainerState, args: TrainingArguments) -> None:
        weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if any_process(not are_finite(weights), args):
            raise diverged("the weights are not finite, and were not saved", None, state, args)


@torch.no_grad()
def are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity, by their norm.

    The Euclidean norm is ten times faster on a CPU than the maximum norm, but may overflow although all numbers are
    finite; the maximum norm then decides.
    """
    tensors = [tensor for tensor in tensors if tensor.numel()]
    return not tensors or any(
        math.isfinite(float(torch.nn.utils.get_total_norm(tensors, order))) for order in (2.0, math.inf)
    )


def require_finite(model: torch.nn.Module, what: str) -> None:
    """Refuse a model with weights that are not finite, before it is saved.

    Args:
        what: the thing to be saved, for the message.

    Raises:
        Diverged: if a weight is not finite.
    """
    # Integer parameters are the packed bits of a quantised base.
    named = [(name, weight.detach()) for name, weight in model.named_parameters() if weight.is_floating_point()]
    broken = [name for name, weight in named if not are_finite([weight])]
    if broken:
        raise Diverged(
            f"{what} is not saved: its weights are not finite",
            got=f"NaN or infinity in {len(broken)} parameters: {', '.join(broken[:3])} ...",
            fix="a lower learning_rate, a longer warm-up, or bf16 or fp32 instead of fp16",
        )


def diverged(problem: str, rows: str | None, state: TrainerState, args: TrainingArguments) -> Diverged:
    """Return the error for a training that diverged, with its settings, the rows of the step, and advice."""
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "fp32"
    settings = (
        f"learning_rate={args.learning_rate}, warmup_steps={args.warmup_steps}, max_grad_norm={args.max_grad_norm}"
    )
    advice = ["a lower learning_rate", "a longer warm-up"]
    if args.fp16:
        advice.append("bf16 or fp32 instead of fp16")
    advice.append("if these rows are at fault, correct them" if rows else "check the data")
    return Diverged(
        f"training diverged at step {state.global_step}: {problem}",
        got=", ".join([settings, precision, *([rows] if rows else [])]),
        expected="finite numbers",
        fix=", ".join(advice),
    )
