"""`align`, each time in a process of its own that may kill itself at a chosen moment, without loading torch each time.

A server loads the libraries once and forks for every command. It reads requests and answers with exit codes (-9 for
SIGKILL), a JSON line each.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
STAGES = ("tokenizer", "pretrain", "sft", "reward", "dpo", "ppo")


class AlignServer:
    """The server's other end.

    Args:
        folder: where the commands run; `recipes` is put beside them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "recipes").symlink_to(REPOSITORY / "recipes")
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def align(self, *arguments: object, kill: tuple[str, int] | None = None) -> tuple[int, str]:
        """Run `align`; its exit code, and what it printed.

        Args:
            kill: (phase, step) at which it sends itself SIGKILL.
        """
        log = self.folder / "align.log"
        request = {"arguments": [str(one) for one in arguments], "kill": kill, "log": str(log)}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline()), log.read_text(encoding="utf-8")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    import importlib

    import align

    for name in STAGES:
        importlib.import_module(f"alignment.stages.{name}")
    for name in ("alignment.check.run", "alignment.pipeline.runner", "alignment.report", "eval.runner"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for descriptor in (1, 2):
                    os.dup2(log, descriptor)
                if request["kill"]:
                    arm(*request["kill"])
                code = align.main(request["arguments"])
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


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

    import alignment.pipeline.runner as runner
    import alignment.stages.checkpoints as checkpoints
    import alignment.stages.common as common
    import alignment.trainers.ppo_trainer as ppo
    import eval.runner

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
        before(eval.runner, "save_run", lambda *_: True)
    else:
        raise ValueError(phase)


if __name__ == "__main__":
    serve()
