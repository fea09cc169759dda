"""Run a stage's self-check: print its line, keep its record, stop the stage if something does not hold."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import Trainer

from alignment.callbacks.out_of_memory import full_memory_named
from alignment.callbacks.processes import any_process, model_is_sharded
from alignment.errors import UserError, raise_all
from alignment.stages.self_check.untouched import untouched

logger = logging.getLogger(__name__)

# What rounding may do to a log-probability, a loss or a score; anything wrong with the plumbing does far more.
TOLERANCE, TOLERANCE_16_BIT = 1e-3, 0.15
SAME_PASS = 1e-3  # of two models that do the same arithmetic on the same batch, in whatever type


@dataclass
class SelfChecked:
    """Mixed in before a TrainingArguments class: whether the stage proves its plumbing before its first step."""

    self_check: bool = field(
        default=True,
        metadata={"help": "Before the first step, prove that what is trained, sampled and rewarded is what is meant."},
    )


@dataclass(frozen=True)
class Outcome:
    """What one check saw.

    Attributes:
        name: what was compared, in words.
        difference: the largest difference; 0 where there is nothing to measure.
        tolerance: the largest that rounding explains.
        failure: what a difference beyond it means.
        mend: what to do about it.
        warning: what the user should know although nothing is wrong.
    """

    name: str
    difference: float = 0.0
    tolerance: float = 0.0
    failure: str | None = None
    fix: str | None = None
    warning: str | None = None

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance  # not so of NaN

    @property
    def error(self) -> UserError:
        return UserError(
            f"the self-check failed: {self.failure or self.name}",
            got=f"{self.name}: a difference of {self.difference:.3g}",
            expected=f"at most {self.tolerance:.3g}",
            fix=f"{self.fix or 'report it with the recipe'}; self_check: false (--no-self-check) trains all the same",
        )


Check = Callable[[Trainer], Iterator[Outcome]]


def self_check(trainer: Trainer, checks: Sequence[Check]) -> dict[str, Any] | None:
    """Run the checks on a trainer that has not trained yet; nothing about it, nor any random state, changes.

    Returns:
        The record for stage.json; None where the recipe turns the self-check off, or the launcher parts the model among
        processes, so that it cannot run before training begins.

    Raises:
        UserError: naming each check that does not hold.
    """
    if not trainer.args.self_check:
        return None
    if model_is_sharded() or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.info("self-check: not done: the model is parted among processes")
        return None
    started = time.perf_counter()
    # Layers that are compiled would be compiled once more for evaluation.
    eager = torch.compiler.set_stance("force_eager")
    with full_memory_named(trainer.args), untouched(trainer), eager, trainer.accelerator.autocast():
        outcomes = [outcome for check in checks for outcome in check(trainer)]
    seconds = time.perf_counter() - started
    failed = [outcome for outcome in outcomes if not outcome.holds]
    if any_process(bool(failed), trainer.args):
        raise_all([outcome.error for outcome in failed])
        raise UserError("the self-check failed in another process", fix="its message says which check")
    for outcome in outcomes:
        if outcome.warning:
            logger.warning("self-check: %s", outcome.warning)
    logger.info("self-check: %d of %d hold in %.1f s: %s", len(outcomes), len(outcomes), seconds, summary(outcomes))
    return {"seconds": round(seconds, 2), "checks": [asdict(outcome) for outcome in outcomes]}


def summary(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(outcome.name for outcome in outcomes)


def tolerance(trainer: Trainer, *models: torch.nn.Module) -> float:
    """The rounding to expect of this trainer's arithmetic."""
    types = {parameter.dtype for model in (trainer.model, *models) for parameter in model.parameters()}
    small = trainer.args.bf16 or trainer.args.fp16 or not types <= {torch.float32, torch.float64}
    return TOLERANCE_16_BIT if small else TOLERANCE


@contextlib.contextmanager
def moved_weights(model: torch.nn.Module, most: int = 1_000_000) -> Iterator[None]:
    """Within the context some of the trained weights are others; afterwards they are what they were, bit for bit.

    A new adapter changes nothing yet, so that a sampler that ignores it would not show. The last weights are moved, as
    many as there are of an adapter, or up to `most` numbers.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    chosen, count = [], 0
    for parameter in reversed(trained):
        if chosen and count + parameter.numel() > most:
            break
        chosen.append(parameter)
        count += parameter.numel()
    before = [parameter.detach().clone() for parameter in chosen]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in chosen:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
            parameter.add_(noise, alpha=float(parameter.float().std(correction=0)) * 0.3 + 0.02)
    torch.clear_autocast_cache()  # autocast keeps 16-bit copies of weights for as long as its context lasts
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(chosen, before, strict=True):
                parameter.copy_(value)
        torch.clear_autocast_cache()
