"""Run a stage in several processes of a launcher such as `accelerate launch`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from alignment.errors import UserError
from alignment.pipeline.graph import Pipeline
from alignment.pipeline.recovery import seed_everything
from alignment.pipeline.runner import run_pipeline

if TYPE_CHECKING:
    from alignment.pipeline.plan import Step


def run_stage_together(
    pipeline: Pipeline,
    *,
    fresh: bool = False,
    dry_run: bool = False,
    check: Callable[[Pipeline, Sequence[Step]], None] | None = None,
    begin: Callable[[], None] | None = None,
) -> None:
    """Bring the run directory of a single stage up to date; every process trains.

    Only the main process plans, checks and records, as `run_pipeline` does; it broadcasts whether there is something to
    train, and the others wait for that.

    Raises:
        UserError: the stage does not train a model.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, parse_flag_from_env
    from transformers import TrainingArguments

    (spec,) = pipeline.stages
    if not any(issubclass(config, TrainingArguments) for config in spec.module.CONFIGS):
        raise UserError(f"the stage {spec.name} runs in a single process", fix="run it without the launcher")
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    if not PartialState(cpu=on_cpu).is_main_process:
        (trains,) = broadcast_object_list([None])
        if trains:
            _follow(pipeline)
        PartialState().destroy_process_group()
        return
    decided = False

    def check_and_broadcast(pipeline: Pipeline, steps: Sequence[Step]) -> None:
        nonlocal decided
        if check:
            check(pipeline, steps)
        decided = True
        broadcast_object_list([steps[0].runs and not dry_run])

    try:
        run_pipeline(pipeline, fresh=fresh, dry_run=dry_run, check=check_and_broadcast, begin=begin)
    finally:
        if not decided:
            broadcast_object_list([False])
    # The group's threads would otherwise end with the interpreter, which at times aborts a process that has succeeded:
    # "terminate called without an active exception", exit code -6.
    PartialState().destroy_process_group()


def _follow(pipeline: Pipeline) -> None:
    """Train in step with the main process, which has created the stage's folder."""
    for package in ("alignment", "reward_models", "eval"):
        logging.getLogger(package).setLevel(logging.WARNING)
    (spec,) = pipeline.stages
    configs = spec.configs(pipeline.run_dir)
    seed_everything(spec)
    spec.module.run(*configs)
