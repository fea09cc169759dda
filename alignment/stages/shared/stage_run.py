"""The beginning and the ending of every trainer stage: folder and callbacks, training, checkpoint and stage.json."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from alignment.callbacks.clock import StageClock
from alignment.callbacks.finite import FiniteGuard, require_finite
from alignment.callbacks.metrics_log import MetricsWriter, count_faults
from alignment.callbacks.out_of_memory import full_memory_named
from alignment.callbacks.processes import require_one_world
from alignment.callbacks.spikes import LossSpikes
from alignment.callbacks.stage_progress import StageProgress, replace_printer
from alignment.callbacks.step_checkpoints import StepCheckpoints, own_callback, resume_newest
from alignment.callbacks.stop_on_signal import StopOnSignal
from alignment.callbacks.trackers import name_run, wandb_run_ended
from alignment.data.arguments import DataArguments
from alignment.durable.manifest import new_checkpoint
from alignment.durable.steps import Progress
from alignment.durable.unwritable import make_folder
from alignment.models.generation import set_token_ids
from alignment.stages.self_check.probe import make_probe
from alignment.stages.self_check.prove import Check, self_check
from alignment.stages.shared.chains import record_chain
from alignment.stages.shared.model_card import write_card
from alignment.stages.shared.parameters import count_parameters
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.saving import (
    as_parent,
    gathered_weights,
    push,
    require_supported_sharding,
    rows_of_stages,
    save_checkpoint,
    stage_of,
)
from alignment.trainers.sharding import sharding

INITIAL_ADAPTER = "initial_adapter"


class StageRun:
    """One run of a trainer stage.

    Makes the stage's folder, or finds the interrupted stage in it. The trainer's own output goes to the subfolder
    `trainer`; if that holds intact step checkpoints, training resumes from the newest one. With several processes the
    main process comes first, here and wherever files are made; it alone writes the stage's own files.

    Args:
        method: the stage's name in the table of stages.
        args: the trainer's arguments; `output_dir` is the stage's folder, and becomes the trainer's.
        callbacks: further callbacks for the trainer.

    Attributes:
        folder: the stage's folder.
        callbacks: all callbacks that the trainer is to be given.
    """

    def __init__(self, method: str, args: TrainingArguments, callbacks: Sequence[TrainerCallback] = ()):
        require_one_world(args)
        self.method = method
        self.folder = Path(args.output_dir)
        with args.main_process_first(local=False, desc="make the stage's folder"):
            make_folder(self.folder)
        args.output_dir = str(self.folder / "trainer")
        name_run(args, self.folder)
        args.hub_strategy = HubStrategy.END  # only the finished checkpoint is pushed (`push`)
        progress = Progress() if (self.folder / "stage.json").exists() else resume_newest(args)
        self.clock = StageClock(progress.seconds, progress.peak_memory_gb)
        metrics = MetricsWriter(self.folder / "metrics.jsonl", self.clock, progress.metrics_lines)
        steps = StepCheckpoints(args, progress, metrics, self.clock)
        # StopOnSignal requests a checkpoint, so it comes before StepCheckpoints; the guards look at the weights before
        # they are saved.
        guards = [FiniteGuard(metrics.write), LossSpikes(metrics.write)]
        self.progress = StageProgress(self.folder.name)
        shown = [self.progress] if args.disable_tqdm else []  # else transformers' own bars
        self.callbacks = [StopOnSignal(steps.request), metrics, steps, *guards, *callbacks, *shown]
        self.parameters = (0, 0)
        self.self_check: dict[str, Any] | None = None
        self.tokens = 0

    def train(
        self,
        trainer: Trainer,
        checks: Sequence[Check],
        *,
        logged: Sequence[str] = (),
        evaluated: Sequence[str] = (),
        not_counted: Iterable[torch.nn.Parameter] = (),
        start: Callable[[torch.nn.Module], None] | None = None,
    ) -> dict[str, Any]:
        """Run the self-check, train, and evaluate at the end if there are rows to evaluate on.

        Args:
            checks: the self-checks of this stage.
            logged: keys of the training log whose last value is kept.
            evaluated: keys of the closing evaluation that are kept.
            not_counted: parameters of the trained model that are not the policy's.
            start: changes the model once the self-check has compared it with its parent.

        Returns:
            The metrics that are kept.
        """
        require_supported_sharding(trainer)
        self.parameters = count_parameters(trainer.model, not_counted)
        self.self_check = self_check(trainer, checks)
        if start is not None:
            start(trainer.model)
        if hasattr(trainer.model, "config") and isinstance(trainer.processing_class, PreTrainedTokenizerBase):
            set_token_ids(trainer.model, trainer.processing_class)
        replace_printer(trainer)
        with wandb_run_ended(), contextlib.closing(self.progress):
            self._train(trainer)
            metrics = last_logged(trainer, "train_loss", "num_tokens", *logged)
            self.tokens = int(metrics.pop("num_tokens", trainer.state.num_input_tokens_seen))
            if evaluated and trainer.eval_dataset is not None:
                with full_memory_named(trainer.args):
                    closing = last_evaluation(trainer) or trainer.evaluate()
                metrics |= {key: closing[key] for key in evaluated if key in closing}
        return metrics

    def _train(self, trainer: Trainer) -> None:
        """Train from the step checkpoint, if there is one, to the end or to a signal."""
        stop = own_callback(trainer, StopOnSignal)
        try:
            with stop.listening(), full_memory_named(trainer.args):
                trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
        finally:
            own_callback(trainer, StepCheckpoints).join()
        stop.end_after_training(trainer.args, trainer.state)

    def finish(
        self, trainer: Trainer, parents: Mapping[str, str | None], data: DataArguments, metrics: dict[str, Any]
    ) -> StageResult:
        """Write checkpoint, stage.json and model card, and push them if the recipe asks for it.

        Args:
            parents: recipe key -> the checkpoint it names; the first is the one that the model starts from.
            data: the rows that it was trained on.
            metrics: for stage.json.
        """
        checkpoint = self.folder / "checkpoint"
        model = trainer.accelerator.unwrap_model(trainer.model)
        require_finite(model, f"the checkpoint of {self.folder.name}")
        parent, chain, writes = next(iter(parents.values()), None), None, trainer.is_world_process_zero()
        models = [stage_of(path) for path in parents.values() if path is not None]
        named = {key: stage_of(path) for key, path in {**parents, **rows_of_stages(data)}.items() if path is not None}
        as_parent(model, parent)
        weights = gathered_weights(trainer)  # in all processes: the main one alone would wait for the others
        if writes:
            with new_checkpoint(checkpoint) as folder:
                initial = str(Path(trainer.args.output_dir) / INITIAL_ADAPTER)
                save_checkpoint(model, trainer.processing_class, folder, initial, weights)
                if isinstance(model, PeftModel):
                    chain = asdict(record_chain(model, folder, self.folder.name, parent, parent and stage_of(parent)))
        result = StageResult(
            stage=self.folder.name,
            method=self.method,
            checkpoint=f"{self.folder.name}/checkpoint",
            parent=next(iter(models), None),
            parents=named,
            seconds=self.clock.seconds,
            peak_memory_gb=self.clock.peak_memory_gb,
            trainable_parameters=self.parameters[0],
            total_parameters=self.parameters[1],
            tokens=self.tokens,
            metrics=metrics,
            faults=count_faults(self.folder / "metrics.jsonl"),
            adapter_chain=chain,
            self_check=self.self_check,
            probe=None if sharding(trainer.args, trainer.accelerator) else make_probe(own_forward(trainer)),
        )
        if writes:
            write_card(checkpoint, result, data.title)
            result.write(self.folder)
            own_callback(trainer, StepCheckpoints).tidy(trainer.state)
            if trainer.args.push_to_hub:
                push(trainer, checkpoint)
        trainer.accelerator.wait_for_everyone()
        return result


def own_forward(trainer: Trainer) -> torch.nn.Module:
    """The trained model with its own forward pass: that of accelerate computes in the type of training."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def last_evaluation(trainer: Trainer) -> dict[str, float] | None:
    """What the trainer has logged of evaluating the weights that it ends with (`eval_strategy: epoch`, say)."""
    entry = next((entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), None)
    if entry is None or entry["step"] < trainer.state.global_step or trainer.args.load_best_model_at_end:
        return None
    return entry


def last_logged(trainer: Trainer, *keys: str) -> dict[str, float]:
    """The last value of each key in the trainer's log, for keys that were logged."""
    found = {}
    for entry in trainer.state.log_history:
        found.update({key: entry[key] for key in keys if key in entry})
    return found
