"""What the stages share: where things are written, what is measured, and what a finished stage leaves behind."""

import json
import logging
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from trl import ModelConfig, get_quantization_config

from alignment.data.arguments import DataArguments
from alignment.data.load import prepare
from alignment.durable.files import write_json, write_text
from alignment.durable.manifest import new_checkpoint
from alignment.errors import UserError
from alignment.models.adapters import add_token_rows
from alignment.models.checkpoints import is_adapter
from alignment.models.loading import load_config
from alignment.stages.card import write_card
from alignment.stages.chains import record_chain
from eval.suite import item_texts

logger = logging.getLogger(__name__)
INITIAL_ADAPTER = "initial_adapter"


@dataclass
class StageResult:
    """What a stage made and what it took, as written to stage.json.

    `parent` is the name of the stage (or the path) that the model starts from; `parents` holds every recipe key that
    names a checkpoint. `tokens` counts the tokens trained on, padding aside. `adapter_chain` is what an adapter's
    checkpoint records of its base and of the adapters in between.
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
    adapter_chain: dict | None = None

    def write(self, stage_dir: Path) -> None:
        write_json(stage_dir / "stage.json", asdict(self))


class MetricsWriter(TrainerCallback):
    """Appends every log to metrics.jsonl, a JSON object a line."""

    def __init__(self, path: Path):
        self.path, self.started = path, time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        line = {"step": state.global_step, "epoch": state.epoch, "seconds": round(time.monotonic() - self.started, 2)}
        numbers = {key: value for key, value in logs.items() if isinstance(value, int | float)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, **numbers}) + "\n")


class StageClock:
    """Seconds and peak memory of a stage, from its creation."""

    def __init__(self):
        self.started = time.monotonic()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            reset_peak_rss()

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 2)

    @property
    def peak_memory_gb(self) -> float:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss()
        return round(peak / 1e9, 3)


def reset_peak_rss() -> None:
    """Let the kernel forget the highest resident size so far, so that each stage shows its own (Linux: proc(5))."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")


def peak_rss() -> int:
    """The highest resident size of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def start(args: TrainingArguments) -> tuple[Path, MetricsWriter, StageClock]:
    """Make the stage's folder; the trainer's own output goes to its subfolder `trainer`."""
    stage_dir = Path(args.output_dir)
    stage_dir.mkdir(parents=True, exist_ok=True)
    args.output_dir = str(stage_dir / "trainer")
    return stage_dir, MetricsWriter(stage_dir / "metrics.jsonl"), StageClock()


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
    prepared = prepare(data, kind, seed, keep, eval_texts(data), held_out)
    stage_dir.mkdir(parents=True, exist_ok=True)
    write_text(stage_dir / account, json.dumps(prepared.report.to_json(), indent=2, ensure_ascii=False) + "\n")
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
    context = getattr(load_config(checkpoint), "max_position_embeddings", None)
    if context is not None and (max_length is None or max_length > context):
        raise UserError(
            "max_length is beyond the model's context",
            got=f"max_length={max_length}, {context} positions in the model",
            needed=f"max_length of at most {context}",
            mend=f"max_length: {context}, or a model with more positions",
        )


def count_parameters(model: torch.nn.Module, other_than: Iterable[torch.nn.Parameter] = ()) -> tuple[int, int]:
    """Trainable and all parameters, without some."""
    left_out = {id(parameter) for parameter in other_than}
    sizes = [
        (parameter.numel(), parameter.requires_grad)
        for parameter in model.parameters()
        if id(parameter) not in left_out
    ]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


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
) -> StageResult:
    """Write checkpoint, stage.json and model card, and push them where the recipe says so.

    Args:
        parents: recipe key -> checkpoint it named; the first is what the model starts from.
        data: the data set's name, for the card.
        counted: trainable and all parameters, as `count_parameters` gives them.
    """
    checkpoint = stage_dir / "checkpoint"
    model = trainer.accelerator.unwrap_model(trainer.model)
    parent, chain = next(iter(parents.values()), None), None
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
        adapter_chain=chain,
    )
    write_card(checkpoint, result, data)
    result.write(stage_dir)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    logger.info("%s: wrote %s", stage_dir.name, checkpoint)
    return result


def train(trainer: Trainer, logged: Sequence[str] = (), evaluated: Sequence[str] = ()) -> tuple[int, dict[str, float]]:
    """Train, and evaluate at the end where there is something to evaluate on.

    Args:
        logged: keys of the training log to keep the last value of.
        evaluated: keys of the closing evaluation to keep.

    Returns:
        The tokens trained on, and the metrics kept.
    """
    trainer.train()
    metrics = last_logged(trainer, "train_loss", "num_tokens", *logged)
    tokens = metrics.pop("num_tokens", trainer.state.num_input_tokens_seen)
    if evaluated and trainer.eval_dataset is not None:
        closing = trainer.evaluate()
        metrics |= {key: closing[key] for key in evaluated if key in closing}
    return int(tokens), metrics


def last_logged(trainer: Trainer, *keys: str) -> dict[str, float]:
    """The last value of each key in the trainer's log, for keys that were logged."""
    found = {}
    for entry in trainer.state.log_history:
        found.update({key: entry[key] for key in keys if key in entry})
    return found
