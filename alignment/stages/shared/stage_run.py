"""What the stages share: where things are written, what is measured, and what a finished stage leaves behind."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import DatasetDict
from huggingface_hub import HfApi
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy
from trl import ModelConfig, get_quantization_config

from alignment.callbacks.clock import StageClock
from alignment.callbacks.finite import FiniteGuard, require_finite
from alignment.callbacks.metrics_log import MetricsWriter
from alignment.callbacks.out_of_memory import count_faults, full_memory_named
from alignment.callbacks.processes import model_is_sharded
from alignment.callbacks.spikes import LossSpikes
from alignment.callbacks.step_checkpoints import StepCheckpoints, go_on, own_callback
from alignment.callbacks.stop_on_signal import StopOnSignal
from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import prepare
from alignment.durable.atomic import write_json, write_text
from alignment.durable.manifest import new_checkpoint
from alignment.durable.steps import Progress
from alignment.errors import UserError
from alignment.masking import mask_text, masked
from alignment.models.adapters import add_token_rows
from alignment.models.checkpoints import is_adapter
from alignment.models.context_length import context_length
from alignment.models.loading import load_config
from alignment.stages.self_check.probe import make_probe
from alignment.stages.shared.chains import record_chain
from alignment.stages.shared.model_card import write_card
from eval.harness.suite import item_texts

logger = logging.getLogger(__name__)
INITIAL_ADAPTER = "initial_adapter"


@dataclass
class StageResult:
    """What a stage made and what it took, as written to stage.json.

    `parent` is the name of the stage (or the path) that the model starts from; `parents` holds every recipe key that
    names a checkpoint. `tokens` counts the tokens trained on, padding aside; `faults` counts skipped steps and loss
    spikes. `adapter_chain` is what an adapter's checkpoint records of its base and of the adapters in between.
    """

    stage: str
    method: str
    checkpoint: str
    parent: str | None
    parents: dict[str, str]
    seconds: float
    peak_memory_gb: float
    trainable_parameters: int
    total_parameters: int
    tokens: int
    metrics: dict = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    adapter_chain: dict | None = None
    self_check: dict | None = None
    probe: dict | None = None

    def write(self, stage_dir: Path) -> None:
        write_json(stage_dir / "stage.json", masked(asdict(self)))


def start(args: TrainingArguments) -> tuple[Path, list[TrainerCallback], StageClock]:
    """Make the stage's folder, where it is not there to go on in: its path, the trainer's callbacks, and its clock.

    The trainer's own output goes to its subfolder `trainer`. A folder in which the stage was interrupted holds step
    checkpoints there, and training goes on from the newest one that is intact. Of several processes the main one comes
    first, here and wherever files are made; it alone writes the stage's own.
    """
    stage_dir = Path(args.output_dir)
    with args.main_process_first(local=False, desc="make the stage's folder"):
        stage_dir.mkdir(parents=True, exist_ok=True)
    args.output_dir = str(stage_dir / "trainer")
    args.hub_strategy = HubStrategy.END  # only the finished checkpoint is pushed (`push`)
    progress = Progress() if (stage_dir / "stage.json").exists() else go_on(args)
    clock = StageClock(progress.seconds, progress.peak_memory_gb)
    metrics = MetricsWriter(stage_dir / "metrics.jsonl", clock, progress.metrics_lines)
    steps = StepCheckpoints(args, progress, metrics, clock)
    # A signal asks for a checkpoint, which comes after it; what is about to be saved is looked at before it is.
    callbacks = [StopOnSignal(steps.request), metrics, steps, FiniteGuard(metrics.write), LossSpikes(metrics.write)]
    return stage_dir, callbacks, clock


def load_data(
    data: DataArguments,
    kind: str,
    seed: int,
    stage_dir: Path,
    *,
    keep: Sequence[str] | None = (),
    held_out: Mapping[str, str] | None = None,
    account: str = "data.json",
) -> DatasetDict:
    """The stage's rows as `prepare` gives them; what became of every row is written to the stage's folder."""
    with PartialState().main_process_first():  # the others take the rows from the cache
        prepared = prepare(data, kind, seed, keep, eval_texts(data), held_out)
    if PartialState().is_main_process:
        stage_dir.mkdir(parents=True, exist_ok=True)
        text = json.dumps(prepared.report.to_json(), indent=2, ensure_ascii=False) + "\n"
        write_text(stage_dir / account, mask_text(text))
    return prepared.splits


def eval_texts(data: DataArguments) -> dict[str, list[str]]:
    """The items of each suite that training is to be kept clean of."""
    return {suite: item_texts(suite) for suite in data.decontaminate}


def loading_options(model_args: ModelConfig) -> dict[str, Any]:
    """How `load_trainable` loads what a recipe trains: in 32 bit unless it says otherwise.

    Left to itself, transformers takes the type that a checkpoint was saved in: Adam would train weights, gradients and
    moments of 16 bit, in which small steps vanish.
    """
    options = {"dtype": model_args.dtype, "revision": model_args.model_revision}
    if model_args.attn_implementation is not None:
        options["attn_implementation"] = model_args.attn_implementation
    quantization = get_quantization_config(model_args)
    if quantization is not None:
        options["quantization_config"] = quantization
    return options


def require_context(checkpoint: str, max_length: int | None) -> None:
    """Raise where rows may be longer than what the model was made for: beyond it, it reads badly and says nothing."""
    context = context_length(load_config(checkpoint))
    if context is not None and (max_length is None or max_length > context):
        raise UserError(
            "max_length is beyond the model's context",
            got=f"max_length={max_length}, {context} positions in the model",
            expected=f"max_length of at most {context}",
            fix=f"max_length: {context}, or a model with more positions",
        )


def count_parameters(model: torch.nn.Module, other_than: Iterable[torch.nn.Parameter] = ()) -> tuple[int, int]:
    """Trainable and all parameters, without some."""
    left_out = {id(parameter) for parameter in other_than}
    sizes = [
        (numbers_in(parameter), parameter.requires_grad)
        for parameter in model.parameters()
        if id(parameter) not in left_out
    ]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def numbers_in(parameter: torch.nn.Parameter) -> int:
    """How many numbers a parameter stands for: of 4 bit several are packed into one."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else packed.shape.numel()


def stage_of(checkpoint: str | None) -> str | None:
    """The stage that a checkpoint path belongs to (its folder's name), else the path or hub id itself."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return path.parent.name if path.name == "checkpoint" and (path.parent / "stage.json").exists() else checkpoint


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: Path, initial: str | None = None
) -> None:
    """Weights (safetensors), config, tokenizer and generation config; of a PeftModel the adapter alone.

    Args:
        initial: of an adapter that changed its base as it began (PiSSA), the folder of it as it was then: it is saved
            as an adapter of the base as it was before.
    """
    # A reference adapter beside the trained one stays out, and so do those that it stands over.
    selected = {}
    if isinstance(model, PeftModel):  # of embeddings the trained rows alone, where the base was given some more as well
        selected = {"selected_adapters": [model.active_adapter], "save_embedding_layers": False}
        if initial is not None and Path(initial).is_dir():
            selected["path_initial_model_for_weight_conversion"] = initial
    model.save_pretrained(checkpoint, **selected)
    if "path_initial_model_for_weight_conversion" in selected:
        add_token_rows(model, checkpoint)
    tokenizer.save_pretrained(checkpoint)
    # PEFT leaves the generation config out, and with it where a reply ends.
    if is_adapter(checkpoint) and getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(checkpoint)


def finish(
    trainer: Trainer,
    stage_dir: Path,
    clock: StageClock,
    *,
    method: str,
    parents: dict[str, str | None],
    data: str,
    counted: tuple[int, int],
    tokens: int,
    metrics: dict,
    self_check: dict | None = None,
) -> StageResult:
    """Write checkpoint, stage.json and model card, and push them where the recipe says so.

    Args:
        parents: recipe key -> checkpoint it named; the first is what the model starts from.
        data: the data set's name, for the card.
        counted: trainable and all parameters, as `count_parameters` gives them.
        self_check: the record of what the stage proved before its first step.
    """
    checkpoint = stage_dir / "checkpoint"
    model = trainer.accelerator.unwrap_model(trainer.model)
    require_finite(model, f"the checkpoint of {stage_dir.name}")
    parent, chain, writes = next(iter(parents.values()), None), None, trainer.is_world_process_zero()
    as_parent(model, parent)
    if writes:
        with new_checkpoint(checkpoint) as folder:
            initial = str(Path(trainer.args.output_dir) / INITIAL_ADAPTER)
            save_checkpoint(model, trainer.processing_class, folder, initial)
            if isinstance(model, PeftModel):
                chain = asdict(record_chain(model, folder, stage_dir.name, parent, stage_of(parent)))
    named = {key: stage_of(path) for key, path in parents.items() if path is not None}
    result = StageResult(
        stage=stage_dir.name,
        method=method,
        checkpoint=f"{stage_dir.name}/checkpoint",
        parent=next(iter(named.values()), None),
        parents=named,
        seconds=clock.seconds,
        peak_memory_gb=clock.peak_memory_gb,
        trainable_parameters=counted[0],
        total_parameters=counted[1],
        tokens=int(tokens),
        metrics=metrics,
        faults=count_faults(stage_dir / "metrics.jsonl"),
        adapter_chain=chain,
        self_check=self_check,
        probe=None if model_is_sharded() else make_probe(model),
    )
    if writes:
        write_card(checkpoint, result, data)
        result.write(stage_dir)
        own_callback(trainer, StepCheckpoints).tidy(trainer.state)
        if trainer.args.push_to_hub:
            push(trainer, checkpoint)
        logger.info("%s: wrote %s", stage_dir.name, checkpoint)
    trainer.accelerator.wait_for_everyone()
    return result


def as_parent(model: PreTrainedModel | PeftModel, parent: str | None) -> None:
    """Undo what TRL's trainers set in the config of a mixture of experts for training: transformers' own models with
    `output_router_logits` cannot generate from a cache."""
    config = model.config.get_text_config()
    if parent is not None and hasattr(config, "output_router_logits"):
        config.output_router_logits = load_config(parent).get_text_config().output_router_logits


def push(trainer: Trainer, checkpoint: Path) -> None:
    """Upload a finished checkpoint as it stands; Trainer's own push adds its pickled arguments, with hub_token."""
    api, revision = HfApi(token=trainer.args.hub_token), trainer.args.hub_revision
    api.upload_folder(repo_id=trainer.hub_model_id, folder_path=checkpoint, revision=revision)


def train(trainer: Trainer, logged: Sequence[str] = (), evaluated: Sequence[str] = ()) -> tuple[int, dict[str, float]]:
    """Train, from where `start` found to go on, and evaluate at the end where there is something to evaluate on.

    Args:
        logged: keys of the training log to keep the last value of.
        evaluated: keys of the closing evaluation to keep.

    Returns:
        The tokens trained on, and the metrics kept.
    """
    stop = own_callback(trainer, StopOnSignal)
    try:
        with stop.listening(), full_memory_named(trainer.args):
            trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    finally:
        own_callback(trainer, StepCheckpoints).join()
    stop.end_after_training(trainer.args, trainer.state)
    metrics = last_logged(trainer, "train_loss", "num_tokens", *logged)
    tokens = metrics.pop("num_tokens", trainer.state.num_input_tokens_seen)
    if evaluated and trainer.eval_dataset is not None:
        with full_memory_named(trainer.args):
            closing = last_evaluation(trainer) or trainer.evaluate()
        metrics |= {key: closing[key] for key in evaluated if key in closing}
    return int(tokens), metrics


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
