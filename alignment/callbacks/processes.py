"""What the processes of one training agree on."""

import os

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments


def launched() -> int:
    """How many processes there are, by what launchers set."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def model_is_sharded() -> bool:
    """Whether the launcher parts the model among processes."""
    return any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))


def any_process(value: bool, args: TrainingArguments) -> bool:
    """Whether it holds in any process: what one does alone, the others would wait for without end."""
    if args.world_size <= 1:
        return value
    flag = torch.tensor(int(value), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
