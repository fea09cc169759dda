"""Faults that a stage survives: it is set up anew, and goes on from its last step checkpoint or from its start."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.callbacks.processes import launched
from alignment.durable.atomic import disk_full_explained
from alignment.errors import Diverged, OutOfMemory
from alignment.pipeline.free_memory import free_memory
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.stage_spec import StageSpec

FOUND_OUT = ("micro_batch", "diverged")  # keys of a stage's record that hold for its next attempt too
logger = logging.getLogger(__name__)


def run_to_the_end(spec: StageSpec, run_dir: Path, record: RunRecord) -> None:
    """Run a stage, with a smaller micro-batch where it runs out of memory, once more where it diverges.

    The micro-batch that fitted stands in the record of the run, not in the recipe: the stage's result is the same, and
    when it goes on later it need not find out again.

    Raises:
        OutOfMemory: with the smallest micro-batch too.
        Diverged: a second time.
    """
    again = False
    while True:
        fitting = record.stages[spec.name].get("micro_batch") or {}
        configs = replace(spec, recipe=spec.recipe | fitting).configs(run_dir)
        try:
            seed_everything(spec)
            with disk_full_explained(f"the stage {spec.name}", run_dir):
                spec.module.run(*configs)
            return
        except OutOfMemory as error:
            if launched() > 1:
                raise  # the others train on, and wait
            (args,) = [config for config in configs if hasattr(config, "per_device_train_batch_size")]
            smaller = smaller_micro_batch(args)
            if smaller is None:
                raise
            record.update("stages", spec.name, micro_batch=smaller)
            logger.warning(
                "%s: %s; goes on with %s, the same optimizer batch", spec.name, error.problem, in_words(smaller)
            )
        except Diverged as error:
            if launched() > 1:
                raise
            if again:
                problem = f"{error.problem}, as before it went back to its last good checkpoint"
                raise Diverged(problem, got=error.got, expected=error.expected, fix=error.fix) from error
            again = True
            record.update("stages", spec.name, diverged=error.problem)
            logger.warning("%s: %s\n%s: goes on once more from the last good checkpoint", spec.name, error, spec.name)
        free_memory()  # of what the exception held until here


def seed_everything(spec: StageSpec) -> None:
    """Start each stage from its own seed, so that it does not matter what ran before it in the process."""
    if "seed" in spec.recipe:
        from transformers import set_seed

        set_seed(spec.recipe["seed"])


def smaller_micro_batch(args: Any) -> dict[str, int] | None:
    """Recipe keys for half the micro-batch in twice as many passes, and half the evaluation's; None where both are 1.

    A size that 2 does not divide is divided by its smallest factor, so that the optimizer batch stays the same. In PPO
    and GRPO the rollout does too: it holds the same number of completions, in more micro-batches. GRPO's evaluation
    takes whole groups of completions.
    """
    size, evaluated = args.per_device_train_batch_size, args.per_device_eval_batch_size
    group = getattr(args, "num_generations_eval", None) or getattr(args, "num_generations", 1)
    half = max(evaluated // 2 // group * group, min(group, evaluated))
    if size == 1 and half == evaluated:
        return None
    factor = next((divisor for divisor in range(2, size + 1) if size % divisor == 0), 1)
    keys = {
        "per_device_train_batch_size": size // factor,
        "gradient_accumulation_steps": args.gradient_accumulation_steps * factor,
        "per_device_eval_batch_size": half,
    }
    if hasattr(args, "steps_per_generation"):
        keys["steps_per_generation"] = args.steps_per_generation * factor
    if getattr(args, "generation_batch_size", None) is not None:
        keys["generation_batch_size"] = None  # TRL takes one of the two
    return keys


def in_words(keys: dict[str, int]) -> str:
    return ", ".join(f"{key} {value}" for key, value in keys.items() if value is not None)
