"""Faults of training in the stages: gradients that are not finite, loss spikes, full memory, signals."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments

from alignment.durable.read import read_json_lines
from alignment.errors import OutOfMemory, UserError

# What torch says where memory is full and it has no error class of its own for it.
FULL_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
COUNTED = {"skipped_step": "skipped_steps", "loss_spike": "loss_spikes"}  # key of metrics.jsonl -> of stage.json


@dataclass
class Guarded:
    """Mixed in before a TrainingArguments class: how long training bears gradients that are not finite."""

    max_skipped_steps: int = field(
        default=5,
        metadata={
            "help": "Steps skipped in a row, as their gradient is not finite, after which training goes back to its "
            "last step checkpoint, and ends when that happens again."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_skipped_steps < 1:
            raise UserError("max_skipped_steps is too small", got=self.max_skipped_steps, expected="1 or more")


@contextlib.contextmanager
def full_memory_named(args: TrainingArguments) -> Iterator[None]:
    """Raise OutOfMemory where training fails for want of memory.

    Raises:
        UserError: in its place where other processes train too: they wait for this one, and cannot start anew with it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sizes = (
            f"per_device_train_batch_size {args.per_device_train_batch_size}, "
            f"per_device_eval_batch_size {args.per_device_eval_batch_size}"
        )
        advice = "activation_checkpointing: true, shorter rows (max_length), LoRA (use_peft: true) or a smaller model"
        if args.world_size > 1:
            raise UserError(
                "out of memory in one of several processes",
                got=f"{sizes}: {first_line(error)}",
                fix=f"a smaller per_device_train_batch_size with more gradient_accumulation_steps, {advice}",
            ) from error
        raise OutOfMemory(f"out of memory with {sizes}", got=first_line(error), fix=advice) from error


def is_out_of_memory(error: Exception) -> bool:
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or any(words in str(error) for words in FULL_MEMORY)


def first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def count_faults(metrics_file: Path) -> dict[str, int]:
    """How often each fault stands in a stage's metrics.jsonl: of the training that led to the result, all attempts."""
    lines = read_json_lines(metrics_file)
    return {name: sum(key in line for line in lines) for key, name in COUNTED.items()}
