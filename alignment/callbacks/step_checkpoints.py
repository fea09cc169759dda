"""Step checkpoints in the stages: when they are written, how they are sealed, and going on from one."""

import logging
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from alignment.callbacks.clock import StageClock
from alignment.callbacks.metrics_log import MetricsWriter
from alignment.durable.manifest import write_manifest
from alignment.durable.steps import PREFIX, Progress, all_steps, best_beside, newest_intact, prune
from alignment.errors import UserError

logger = logging.getLogger(__name__)
Callback = TypeVar("Callback", bound=TrainerCallback)
KEPT = 2  # of those that are only there to go on from: a damaged one has one before it


@dataclass
class Resumable:
    """Mixed in before a TrainingArguments class: step checkpoints from which an interrupted stage goes on."""

    save_minutes: float | None = field(
        default=5.0,
        metadata={
            "help": "Write a step checkpoint at the first log (logging_steps) after so many minutes without one, "
            "whatever save_strategy says; null: only where save_strategy says."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.resume_from_checkpoint is not None:
            raise UserError(
                "resume_from_checkpoint is no key of a recipe",
                got=self.resume_from_checkpoint,
                fix="leave it out: a stage goes on from its own newest step checkpoint by itself; to start from a "
                "model, name it in model_name_or_path",
            )
        if self.save_minutes is not None and self.save_minutes < 0:
            raise UserError("save_minutes is too small", got=self.save_minutes, expected="0 or more, or null")

    @property
    def resumable(self) -> bool:
        """Whether a step checkpoint holds all of the training: the optimizer, and no reference that moves (DPO)."""
        return not (self.save_only_model or getattr(self, "sync_ref_model", False))


class StepCheckpoints(TrainerCallback):
    """Decides when step checkpoints are written, seals them with a manifest, and removes old ones.

    A step checkpoint is written between two rollouts (PPO), with a log (so that no mean spans it), and at the end of an
    epoch only after the epoch's own evaluation. What hashes and syncs it runs beside the training. Old ones go once a
    newer one is complete, which Trainer's own rotation does not wait for.

    To stop and go on later, `request` one and raise in `on_save`, or after: with `should_training_stop` the checkpoint
    would say that training is over.
    """

    def __init__(self, args: TrainingArguments, progress: Progress, metrics: MetricsWriter, clock: StageClock):
        self.folder = Path(args.output_dir)
        self.between = getattr(args, "steps_per_rollout", 1)
        self.only_to_resume = args.save_strategy == SaveStrategy.NO
        self.limit = KEPT if self.only_to_resume else args.save_total_limit or None  # 0 is no limit, as in Trainer
        args.save_total_limit = None  # Trainer is to remove nothing
        self.metrics, self.clock = metrics, clock
        self.sampler_rng = rng_state(progress.sampler_rng)
        self.resumed = bool(progress.sampler_rng)
        self.requested = False
        self.last_save = time.monotonic()
        self.sealer, self.sealing = ThreadPoolExecutor(1), None

    def request(self) -> None:
        """Write a step checkpoint at the next step from which training can go on."""
        self.requested = True

    def on_train_begin(self, args, state, control, **kwargs):
        if state.best_global_step:  # the folder may have been moved or copied
            best = self.folder / f"{PREFIX}{state.best_global_step}"
            state.best_model_checkpoint = str(best) if best.is_dir() else None

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.resumed:
            torch.set_rng_state(self.sampler_rng)
            self.resumed = False
        self.sampler_rng = torch.get_rng_state()

    def on_step_end(self, args, state: TrainerState, control: TrainerControl, **kwargs):
        if args.save_strategy == SaveStrategy.BEST and control.should_evaluate:
            control.should_log = True  # the evaluation may decide to save
        self.requested |= control.should_save or (control.should_log and self.overdue(args))
        ends = at_end_of_epoch(state) or control.should_training_stop
        return self.decide(state, control, not ends)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.requested |= control.should_save or self.overdue(args)
        return self.decide(state, control, True)

    def decide(self, state: TrainerState, control: TrainerControl, may_save: bool) -> TrainerControl:
        control.should_save = self.requested and may_save and state.global_step % self.between == 0
        if control.should_save:
            control.should_log = True
            self.join()
        return control

    def overdue(self, args: TrainingArguments) -> bool:
        """Whether save_minutes have passed, by the first process' clock."""
        if args.save_minutes is None or not args.resumable:
            return False
        late = [time.monotonic() - self.last_save >= 60 * args.save_minutes]
        return broadcast_object_list(late)[0] if args.world_size > 1 else late[0]

    def on_save(self, args, state, control, **kwargs):
        self.join()
        self.requested, self.last_save = False, time.monotonic()
        PartialState().wait_for_everyone()  # each process writes its own random state
        if not args.should_save:
            return
        checkpoint = self.folder / f"{PREFIX}{state.global_step}"
        if args.resumable:
            self.progress(state, control).write(checkpoint)
        self.sealing = self.sealer.submit(self.seal, checkpoint)

    def progress(self, state: TrainerState, control: TrainerControl) -> Progress:
        sampler_rng = torch.get_rng_state() if at_end_of_epoch(state) else self.sampler_rng
        return Progress(
            metrics_lines=self.metrics.lines,
            seconds=self.clock.seconds,
            peak_memory_gb=self.clock.peak_memory_gb,
            sampler_rng=bytes(sampler_rng.tolist()).hex(),
            trained=control.should_training_stop,
        )

    def seal(self, checkpoint: Path) -> None:
        """Make a step checkpoint complete, and only then let old ones go."""
        write_manifest(checkpoint)
        best = best_beside(checkpoint)
        prune(self.folder, self.limit, [checkpoint, *([best] if best else [])])

    def join(self) -> None:
        """Wait until the last step checkpoint is complete."""
        sealing: Future | None = self.sealing
        self.sealing = None
        if sealing is not None:
            sealing.result()

    def on_train_end(self, args, state, control, **kwargs):
        self.join()

    def tidy(self, state: TrainerState) -> None:
        """Of a finished stage, leave the step checkpoints that the recipe asked for."""
        best = [Path(state.best_model_checkpoint)] if state.best_model_checkpoint else []
        newest = all_steps(self.folder)[-1:]
        if self.only_to_resume:
            prune(self.folder, 0, [])
        elif self.limit == 1 and best:
            prune(self.folder, 1, best)
        else:
            prune(self.folder, self.limit, [*newest, *best])


def at_end_of_epoch(state: TrainerState) -> bool:
    return state.epoch == int(state.epoch)


def rng_state(hexadecimal: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(hexadecimal)), dtype=torch.uint8)


def go_on(args: TrainingArguments) -> Progress:
    """Let a trainer go on from the newest intact step checkpoint of its folder; without one the folder is emptied.

    Trainer has no word for a training without a step left, and would take one more: zero epochs are none.
    """
    folder = Path(args.output_dir)
    with args.main_process_first(desc="find the step checkpoint to go on from"):
        checkpoint = newest_intact(folder)
        if checkpoint is None and folder.exists():
            shutil.rmtree(folder)  # logs of steps that are all done again
    progress = Progress.read(checkpoint)
    if checkpoint:
        logger.info("goes on from %s", checkpoint)
    args.resume_from_checkpoint = checkpoint and str(checkpoint)
    args.restore_callback_states_from_checkpoint = True  # of those that stop early
    if progress.trained:
        args.max_steps, args.num_train_epochs = -1, 0
    return progress


def own_callback(trainer: Trainer, kind: type[Callback]) -> Callback:
    """The one that `start` gave a trainer."""
    return next(one for one in trainer.callback_handler.callbacks if isinstance(one, kind))
