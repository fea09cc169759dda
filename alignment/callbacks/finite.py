"""Training that stays finite: steps without a finite gradient are skipped, weights that are not finite not saved."""

import logging
import math
from collections.abc import Callable, Iterable

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from alignment.callbacks.processes import any_process
from alignment.callbacks.step_rows import describe, rows_of_step
from alignment.errors import Diverged

logger = logging.getLogger(__name__)


class FiniteGuard(TrainerCallback):
    """Skips the optimizer steps whose gradient is not finite, and keeps weights that are not finite off the disk.

    A skipped step leaves weights and optimizer as they are; the learning rate and the data move on.

    Args:
        write: called with the trainer's state and what a skipped step adds to the metrics.
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
            self.skipping = False  # the scaler of fp16 skips the step itself, and takes a smaller scale from there on
            return
        if not self.skipping:
            self.skipped_in_a_row = 0
            return
        for parameter in parameters:
            parameter.grad = None  # which optimizers pass over, momentum and weight decay included

    def on_step_end(self, args, state, control, optimizer, processing_class=None, train_dataloader=None, **kwargs):
        if self.skipping:
            self.skipping = False
            self.skipped_in_a_row += 1
            rows = rows_of_step(train_dataloader, state.global_step - 1, args)
            place = describe(rows, train_dataloader, processing_class) if rows else None
            self.write(state, {"skipped_step": 1})
            where = f"epoch {state.epoch:.3g}, {place or 'rows not known'}"
            logger.warning("step %d skipped: its gradient is not finite (%s)", state.global_step, where)
            if self.skipped_in_a_row >= args.max_skipped_steps:
                raise diverged(
                    f"the gradient was not finite in {self.skipped_in_a_row} steps in a row", place, state, args
                )
        if control.should_save:
            self._check_weights(optimizer, state, args)

    def on_evaluate(self, args, state, control, optimizer=None, **kwargs):
        # Only after the evaluation does Trainer decide whether to save the best model so far.
        if optimizer is not None and args.save_strategy == SaveStrategy.BEST:
            self._check_weights(optimizer, state, args)

    def on_epoch_end(self, args, state, control, optimizer, **kwargs):
        if control.should_save:
            self._check_weights(optimizer, state, args)

    def _check_weights(self, optimizer, state: TrainerState, args: TrainingArguments) -> None:
        weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if any_process(not are_finite(weights), args):
            raise diverged("the weights are not finite, and were not saved", None, state, args)


@torch.no_grad()
def are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether there is no NaN and no infinity in any of the tensors: their norm would be that.

    The Euclidean norm, ten times faster on a CPU than the largest size, may also overflow where all numbers are finite.
    """
    tensors = [tensor for tensor in tensors if tensor.numel()]
    return not tensors or any(
        math.isfinite(float(torch.nn.utils.get_total_norm(tensors, order))) for order in (2.0, math.inf)
    )


def require_finite(model: torch.nn.Module, what: str) -> None:
    """Raise where a model that is about to be saved is not finite.

    Raises:
        Diverged: and nothing should be written.
    """
    named = [(name, weight.detach()) for name, weight in model.named_parameters() if weight.is_floating_point()]
    broken = [name for name, weight in named if not are_finite([weight])]  # the packed bits of a quantised base are
    if broken:
        raise Diverged(
            f"{what} is not saved: its weights are not finite",
            got=f"NaN or infinity in {len(broken)} parameters: {', '.join(broken[:3])} ...",
            fix="a lower learning_rate, a longer warm-up, or bf16 or fp32 in place of fp16",
        )


def diverged(problem: str, rows: str | None, state: TrainerState, args: TrainingArguments) -> Diverged:
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "fp32"
    settings = (
        f"learning_rate={args.learning_rate}, warmup_steps={args.warmup_steps}, max_grad_norm={args.max_grad_norm}"
    )
    advice = ["a lower learning_rate", "a longer warm-up"]
    if args.fp16:
        advice.append("bf16 or fp32 in place of fp16")
    advice.append("a look at those rows, whose data may be at fault" if rows else "a look at the data")
    return Diverged(
        f"training diverged at step {state.global_step}: {problem}",
        got=", ".join([settings, precision, *([rows] if rows else [])]),
        expected="finite numbers",
        fix=", ".join(advice),
    )
