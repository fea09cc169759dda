"""Facts and decisions that the processes of one training share."""

import os

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments


def launched() -> int:
    """Return the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def model_is_sharded() -> bool:
    """Whether the launcher shards the model across processes."""
    return any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))


def any_process(value: bool, args: TrainingArguments) -> bool:
    """Whether the value is true in any process; all must act on it, as they wait for each other."""
    if args.world_size <= 1:
        return value
    flag = torch.tensor(int(value), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
