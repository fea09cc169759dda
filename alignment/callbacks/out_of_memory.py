"""Recognise errors that mean full memory, and raise them as OutOfMemory."""

import contextlib
from collections.abc import Iterator

import torch
from transformers import TrainingArguments

from alignment.errors import OutOfMemory, UserError

# What torch says if memory is full and it has no error class for the case.
FULL_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


@contextlib.contextmanager
def full_memory_named(args: TrainingArguments) -> Iterator[None]:
    """Raise OutOfMemory instead of any error that says that memory is full.

    Raises:
        OutOfMemory: in a training with one process, which can start again with a smaller micro-batch.
        UserError: in a training with several processes: the others wait for this process, and cannot restart with it.
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
    """Whether an error says that memory is full."""
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or any(words in str(error) for words in FULL_MEMORY)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error) or repr(error)).splitlines()[0]
