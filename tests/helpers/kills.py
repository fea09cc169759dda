"""Moments at which a process of `align` can be told to kill itself."""

import os
import signal
from pathlib import Path


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(phase: str, step: int) -> None:
    """See to it that this process is killed.

    Args:
        phase: `start` before the first step; `gradient` within a step; `step` after one; `steps` after so many of this
            process; `save` with half a file of the step's checkpoint written; `seal` before its manifest is; `eval` in
            an evaluation at or after the step; `rollout` in a rollout at or after it; `final` in writing the final
            checkpoint; `record` just after that; `suite` in an evaluation between stages.
    """
    import torch
    import transformers

    import alignment.callbacks.step_checkpoints as checkpoints
    import alignment.pipeline.runner as runner
    import alignment.stages.shared.stage_run as common
    import alignment.trainers.ppo.trainer as ppo
    import eval.harness.run_suite

    class Killer(transformers.TrainerCallback):
        def __init__(self):
            self.steps = 0

        def on_train_begin(self, args, state, control, **kwargs):
            if phase == "start":
                die()

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if phase == "gradient" and state.global_step == step - 1:
                die()

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1
            if step == {"step": state.global_step, "steps": self.steps}.get(phase):
                die()

    def before(module, name: str, is_time) -> None:
        """Die where a function is called in time, before it does anything."""
        original = getattr(module, name)

        def dying(*args, **kwargs):
            if is_time(*args):
                die()
            return original(*args, **kwargs)

        setattr(module, name, dying)

    def save_half(content, file) -> None:
        save(content, file)
        if Path(file).parts[-2:] == (f"checkpoint-{step}", "optimizer.pt"):
            os.truncate(file, os.path.getsize(file) // 2)
            die()

    if phase in ("start", "gradient", "step", "steps"):
        transformers.trainer.DEFAULT_CALLBACKS.append(Killer)
    elif phase == "save":
        save, torch.save = torch.save, save_half
    elif phase == "seal":
        before(checkpoints, "write_manifest", lambda folder: folder.name == f"checkpoint-{step}")
    elif phase == "eval":
        before(transformers.Trainer, "get_eval_dataloader", lambda trainer, *_: trainer.state.global_step >= step)
    elif phase == "rollout":
        before(ppo, "read_completions", lambda *told: told[-1]["trainer_state"].global_step >= step)
    elif phase == "final":
        before(common, "write_card", lambda *_: True)
    elif phase == "record":
        before(runner, "check_written", lambda *_: True)
    elif phase == "suite":
        before(eval.harness.run_suite, "save_run", lambda *_: True)
    else:
        raise ValueError(phase)
