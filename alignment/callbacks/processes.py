"""Facts and decisions that the processes of one training share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from transformers import TrainingArguments


def launched() -> int:
    """Return the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def model_is_sharded() -> bool:
    """Whether the launcher shards the model across processes."""
    from accelerate.utils import parse_flag_from_env

    return any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))


def require_one_world(args: TrainingArguments) -> None:
    """Refuse processes of one launch that do not know of each other: each would train alone, and write the same files.

    accelerate starts such processes on CPUs if its config asks for FSDP or DeepSpeed there.
    """
    if launched() > 1 and args.world_size == 1:
        raise UserError(
            "The processes of this launch do not know of each other.",
            got=f"WORLD_SIZE={launched()} in the environment, and a world of one process in accelerate",
            expected="one training of all processes",
            fix="on CPUs start `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m align ...` with use_cpu: true",
        )


def any_process(value: bool, args: TrainingArguments) -> bool:
    """Whether the value is true in any process; all must act on it, as they wait for each other."""
    if args.world_size <= 1:
        return value
    import torch

    flag = torch.tensor(int(value), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
