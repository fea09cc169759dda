"""Step checkpoints: when they are written, how they are sealed, and how training resumes from the newest."""

import logging
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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

if TYPE_CHECKING:
    from transformers import TrainingArguments as Mixin  # the dataclass below is mixed into its subclasses
else:
    Mixin = object

logger = logging.getLogger(__name__)
Callback = TypeVar("Callback", bound=TrainerCallback)
KEPT = 2  # if step checkpoints serve only to resume: if the newest is damaged, the previous one is used


@dataclass
class Resumable(Mixin):
    """Mixed in before a TrainingArguments class: step checkpoints from which an interrupted stage resumes."""

    save_minutes: float | None = field(
        default=5.0,
        metadata={
            "help": "Write a step checkpoint at the first log (logging_steps) after this many minutes without one, "
            "whatever save_strategy says; null: only as save_strategy says."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.resume_from_checkpoint is not None:
            raise UserError(
                "resume_from_checkpoint is not a recipe key",
                got=self.resume_from_checkpoint,
                fix="remove it: a stage resumes from its own newest step checkpoint; to start from a model, name it in "
                "model_name_or_path",
            )
        if self.save_minutes is not None and self.save_minutes < 0:
            raise UserError("save_minutes is too small", got=self.save_minutes, expected="0 or more, or null")

    @property
    def resumable(self) -> bool:
        """Whether a step checkpoint holds the whole state: the optimizer, and no reference that moves (DPO)."""
        return not (self.save_only_model or getattr(self, "sync_ref_model", False))


class StepCheckpoints(TrainerCallback):
    """Decides when step checkpoints are written, seals them with a manifest, and removes old ones.

    A step checkpoint is written between two rollouts (PPO), with a log (so that no logged mean spans two attempts), and
    at the end of an epoch only after the epoch's own evaluation. A thread hashes and syncs its files while training
    continues. Old step checkpoints are removed once a newer one is complete; Trainer's own rotation does not wait.

    To stop and resume later, `request` a step checkpoint and raise in `on_save` or later: with `should_training_stop`
    the checkpoint would record that training is over.
    """

    def __init__(self, args: TrainingArguments, progress: Progress, metrics: MetricsWriter, clock: StageClock):
        self.folder = Path(args.output_dir)
        self.between = getattr(args, "steps_per_rollout", 1)
        self.only_to_resume = args.save_strategy == SaveStrategy.NO
        self.limit = KEPT if self.only_to_resume else args.save_total_limit or None  # 0: no limit, as in Trainer
        args.save_total_limit = None  # Trainer removes nothing
        self.metrics, self.clock = metrics, clock
        self.sampler_rng = rng_state(progress.sampler_rng)
        self.resumed = bool(progress.sampler_rng)
        self.requested = False
        self.last_save = time.monotonic()
        self.sealer = ThreadPoolExecutor(1)
        self.sealing: Future[None] | None = None

    def request(self) -> None:
        """Write a step checkpoint at the next step from which training can resume."""
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

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if args.save_strategy == SaveStrategy.BEST and control.should_evaluate:
            control.should_log = True  # the evaluation may decide to save
        self.requested |= control.should_save or (control.should_log and self.overdue(args))
        ends = at_end_of_epoch(state) or control.should_training_stop
        return self.decide(state, control, not ends)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.requested |= control.should_save or self.overdue(args)
        return self.decide(state, control, True)

    def decide(self, state: TrainerState, control: TrainerControl, may_save: bool) -> TrainerControl:
        """Let Trainer log and save if a step checkpoint is requested and can be written here."""
        control.should_save = self.requested and may_save and state.global_step % self.between == 0
        if control.should_save:
            control.should_log = True
            self.join()
        return control

    def overdue(self, args: TrainingArguments) -> bool:
        """Whether `save_minutes` have passed, by the first process's clock."""
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
        """Return the stage's own state that a step checkpoint records in addition to Trainer's."""
        sampler_rng = torch.get_rng_state() if at_end_of_epoch(state) else self.sampler_rng
        return Progress(
            metrics_lines=self.metrics.lines,
            seconds=self.clock.seconds,
            peak_memory_gb=self.clock.peak_memory_gb,
            sampler_rng=bytes(sampler_rng.tolist()).hex(),
            trained=control.should_training_stop,
        )

    def seal(self, checkpoint: Path) -> None:
        """Complete a step checkpoint with its manifest, then remove old ones."""
        write_manifest(checkpoint)
        best = best_beside(checkpoint)
        prune(self.folder, self.limit, [checkpoint, *([best] if best else [])])

    def join(self) -> None:
        """Wait until the newest step checkpoint is complete."""
        sealing, self.sealing = self.sealing, None
        if sealing is not None:
            sealing.result()

    def on_train_end(self, args, state, control, **kwargs):
        self.join()

    def tidy(self, state: TrainerState) -> None:
        """Remove the step checkpoints of a finished stage, except those that the recipe asks for."""
        best = [Path(state.best_model_checkpoint)] if state.best_model_checkpoint else []
        newest = all_steps(self.folder)[-1:]
        if self.only_to_resume:
            prune(self.folder, 0, [])
        elif self.limit == 1 and best:
            prune(self.folder, 1, best)
        else:
            prune(self.folder, self.limit, [*newest, *best])


def at_end_of_epoch(state: TrainerState) -> bool:
    """Whether the last step was the last of an epoch."""
    return state.epoch == int(state.epoch)


def rng_state(hexadecimal: str) -> torch.Tensor:
    """Return torch's random state from its hexadecimal form. -> [bytes], uint8."""
    return torch.tensor(list(bytes.fromhex(hexadecimal)), dtype=torch.uint8)


def resume_newest(args: TrainingArguments) -> Progress:
    """Set the arguments so that training resumes from the newest intact step checkpoint of the trainer's folder.

    If there is none, the folder is emptied and training starts over. If training was complete, the arguments ask for
    zero epochs: resumed with no step left, Trainer would take one more.

    Returns:
        The progress that the step checkpoint records; that of a new stage if there is none.
    """
    folder = Path(args.output_dir)
    with args.main_process_first(desc="find the step checkpoint to resume from"):
        checkpoint = newest_intact(folder)
        if checkpoint is None and folder.exists():
            shutil.rmtree(folder)  # logs of steps that are all trained again
    progress = Progress.read(checkpoint)
    if checkpoint:
        logger.info("resuming from %s", checkpoint)
    args.resume_from_checkpoint = checkpoint and str(checkpoint)
    args.restore_callback_states_from_checkpoint = True  # for early stopping
    if progress.trained:
        args.max_steps, args.num_train_epochs = -1, 0
    return progress


def own_callback(trainer: Trainer, kind: type[Callback]) -> Callback:
    """Return the trainer's callback of a class."""
    return next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, kind))
