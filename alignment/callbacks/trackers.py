"""Experiment trackers that `report_to` names: one run per stage, with the stage's name."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import TrainingArguments


def name_run(args: TrainingArguments, stage_dir: Path) -> None:
    """Name the tracker's run RUN_DIR-STAGE, unless the recipe sets `run_name`.

    trackio ends its run with the training, and continues it for the closing evaluation by its name alone.
    """
    args.run_name = args.run_name or "-".join([stage_dir.resolve().parent.name, stage_dir.name])


@contextlib.contextmanager
def wandb_run_ended() -> Iterator[None]:
    """End the wandb run that is started inside; a run of the caller is left open.

    transformers leaves it open, and the next stage of the process would log its steps, from 1 again, into this run.
    """
    before = wandb_run()
    failed = 1
    try:
        yield
        failed = 0
    finally:
        run = wandb_run()
        if run is not None and run is not before:
            run.finish(exit_code=failed)


def wandb_run() -> Any:
    """Return the open run of wandb, None without one."""
    return getattr(sys.modules.get("wandb"), "run", None)
