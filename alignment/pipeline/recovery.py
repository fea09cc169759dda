"""Recovery from out-of-memory errors and divergence: the stage is set up again and resumes from a step checkpoint."""

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

FOUND_OUT = ("micro_batch", "diverged")  # keys of a stage's record that its next attempt keeps
logger = logging.getLogger(__name__)


def run_to_the_end(spec: StageSpec, run_dir: Path, record: RunRecord) -> None:
    """Run a stage to its end: with smaller micro-batches if it runs out of memory, a second time if it diverges.

    The micro-batch that fits is kept in the record, not in the recipe: it does not change the result, and the stage
    starts with it when it resumes.

    Raises:
        OutOfMemory: the smallest micro-batch does not fit either.
        Diverged: it diverged a second time.
    """
    again = False
    while True:
        fitting = record.stages[spec.name].get("micro_batch") or {}
        configs = replace(spec, recipe=spec.recipe | fitting).configs(run_dir)
        try:
            seed_everything(spec)
            with disk_full_explained(f"the stage {spec.name}", run_dir):
                spec.module.run(*configs, **recording_steps(spec, record))
            return
        except OutOfMemory as error:
            if launched() > 1:
                raise  # the other processes are still training
            (args,) = [config for config in configs if hasattr(config, "per_device_train_batch_size")]
            smaller = smaller_micro_batch(args)
            if smaller is None:
                raise
            record.update("stages", spec.name, micro_batch=smaller)
            logger.warning(
                "%s: %s; resumes with %s and the same optimizer batch", spec.name, error.problem, in_words(smaller)
            )
        except Diverged as error:
            if launched() > 1:
                raise
            if again:
                problem = f"{error.problem}, again after resuming from the last good checkpoint"
                raise Diverged(problem, got=error.got, expected=error.expected, fix=error.fix) from error
            again = True
            record.update("stages", spec.name, diverged=error.problem)
            logger.warning("%s: %s\n%s: resumes once from the last good checkpoint", spec.name, error, spec.name)
        free_memory()  # which the exception held until here


def recording_steps(spec: StageSpec, record: RunRecord) -> dict[str, Any]:
    """The arguments by which a trainer stage records its number of steps when training begins, for `align watch`."""
    if "max_steps" not in spec.keys.names:
        return {}
    from transformers import TrainerCallback

    class RecordSteps(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if state.is_world_process_zero and state.max_steps > 0:  # 0 if training had ended before it resumed
                record.update("stages", spec.name, steps=state.max_steps)

    return {"callbacks": [RecordSteps()]}


def seed_everything(spec: StageSpec) -> None:
    """Seed a stage, so that its result does not depend on what ran before it in the process."""
    if "seed" in spec.recipe:
        from transformers import set_seed

        set_seed(spec.recipe["seed"])


def smaller_micro_batch(args: Any) -> dict[str, int | None] | None:
    """Recipe keys for half the micro-batch with twice the accumulation, and half the evaluation batch; None at 1.

    An odd size is divided by its smallest factor, so that the optimizer batch stays the same. So does the rollout of
    PPO and GRPO: the same number of completions in more micro-batches. GRPO evaluates whole groups of completions.
    """
    size, evaluated = args.per_device_train_batch_size, args.per_device_eval_batch_size
    group = getattr(args, "num_generations_eval", None) or getattr(args, "num_generations", 1)
    half = max(evaluated // 2 // group * group, min(group, evaluated))
    least = getattr(args, "least_micro_batch", 1)
    divisors = (divisor for divisor in range(2, size + 1) if size % divisor == 0 and size // divisor >= least)
    factor = next(divisors, 1)
    if factor == 1 and half == evaluated:
        return None
    keys: dict[str, int | None] = {
        "per_device_train_batch_size": size // factor,
        "gradient_accumulation_steps": args.gradient_accumulation_steps * factor,
        "per_device_eval_batch_size": half,
    }
    if hasattr(args, "steps_per_generation"):
        keys["steps_per_generation"] = args.steps_per_generation * factor
    if getattr(args, "generation_batch_size", None) is not None:
        keys["generation_batch_size"] = None  # TRL accepts only one of the two
    return keys


def in_words(keys: dict[str, int | None]) -> str:
    """Recipe keys as text."""
    return ", ".join(f"{key} {value}" for key, value in keys.items() if value is not None)
