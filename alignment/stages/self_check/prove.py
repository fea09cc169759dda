"""Run a stage's self-check: log one line, return the record, and stop the stage if a check fails."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from transformers import Trainer

from alignment.callbacks.out_of_memory import full_memory_named
from alignment.callbacks.processes import any_process
from alignment.errors import UserError, raise_all
from alignment.stages.self_check.untouched import untouched
from alignment.trainers.sharding import sharding

logger = logging.getLogger(__name__)

# Largest effect of rounding on a log-probability, a loss or a score; faults in the plumbing have far larger effects.
TOLERANCE, TOLERANCE_16_BIT = 1e-3, 0.15
SAME_PASS = 1e-3  # for two models that do the same arithmetic on the same batch, in any type


@dataclass
class SelfChecked:
    """Mixed in before a TrainingArguments class: whether the stage checks its plumbing before its first step."""

    self_check: bool = field(
        default=True,
        metadata={"help": "Before the first step, verify the model, loss, sampler, reference and rewards."},
    )


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check.

    Attributes:
        name: the compared quantities, in words.
        difference: the largest difference; 0 if there is nothing to measure.
        tolerance: the largest difference that rounding explains.
        failure: the meaning of a larger difference.
        fix: what to do about a larger difference.
        warning: advice to the user although the check holds.
    """

    name: str
    difference: float = 0.0
    tolerance: float = 0.0
    failure: str | None = None
    fix: str | None = None
    warning: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; false for NaN."""
        return self.difference <= self.tolerance

    def measured(self, difference: float, tolerance: float = 0.0) -> Outcome:
        """Return this outcome with the numbers of a trainer."""
        return replace(self, difference=difference, tolerance=tolerance)

    @property
    def error(self) -> UserError:
        """The error for a check that failed."""
        return UserError(
            f"the self-check failed: {self.failure or self.name}",
            got=f"{self.name}: a difference of {self.difference:.3g}",
            expected=f"at most {self.tolerance:.3g}",
            fix=f"{self.fix or 'report it with the recipe'}; or skip the check: self_check: false (--no-self-check)",
        )


Check = Callable[[Trainer], Iterator[Outcome]]


def self_check(trainer: Trainer, checks: Sequence[Check]) -> dict[str, Any] | None:
    """Run the checks on a trainer that has not trained yet, without changing the trainer or any random state.

    Returns:
        The record for stage.json; None if the recipe turns the self-check off, or if the launcher shards the model
        across processes, so that the model cannot run before training begins.

    Raises:
        UserError: names each check that failed.
    """
    if not trainer.args.self_check:
        return None
    if sharding(trainer.args, trainer.accelerator) is not None:
        logger.info("self-check: skipped: the model is sharded across processes")
        return None
    started = time.perf_counter()
    # Compiled layers would be compiled once more for evaluation.
    eager = torch.compiler.set_stance("force_eager")
    with full_memory_named(trainer.args), untouched(trainer), eager, trainer.accelerator.autocast():
        outcomes = [outcome for check in checks for outcome in check(trainer)]
    seconds = time.perf_counter() - started
    failed = [outcome for outcome in outcomes if not outcome.holds]
    if any_process(bool(failed), trainer.args):
        raise_all([outcome.error for outcome in failed])
        raise UserError("the self-check failed in another process", fix="see the message of that process")
    for outcome in outcomes:
        if outcome.warning:
            logger.warning("self-check: %s", outcome.warning)
    words = "self-check of the set-up, before the first step: %d of %d checks hold (%s; %.1f s)"
    logger.info(words, len(outcomes), len(outcomes), summary(outcomes), seconds)
    return {"seconds": round(seconds, 2), "checks": [asdict(outcome) for outcome in outcomes]}


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the names of all checks, for the log."""
    return ", ".join(outcome.name for outcome in outcomes)


def tolerance(trainer: Trainer, *models: torch.nn.Module) -> float:
    """Return the rounding to expect from the arithmetic of this trainer."""
    types = {parameter.dtype for model in (trainer.model, *models) for parameter in model.parameters()}
    small = trainer.args.bf16 or trainer.args.fp16 or not types <= {torch.float32, torch.float64}
    return TOLERANCE_16_BIT if small else TOLERANCE


@contextlib.contextmanager
def moved_weights(model: torch.nn.Module, most: int = 1_000_000) -> Iterator[None]:
    """Change some of the trained weights within the context, and restore them bit for bit afterwards.

    A new adapter has no effect yet, so a sampler that ignores the adapter would go unnoticed. The last parameters are
    changed: up to `most` numbers, and at least one parameter.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    chosen: list[torch.nn.Parameter] = []
    count = 0
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
    torch.clear_autocast_cache()  # autocast caches 16-bit copies of weights within its context
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(chosen, before, strict=True):
                parameter.copy_(value)
        torch.clear_autocast_cache()
