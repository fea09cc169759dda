"""What the processes of one training agree on."""

import torch
from transformers import TrainingArguments


def any_process(value: bool, args: TrainingArguments) -> bool:
    """Whether it holds in any process: what one does alone, the others would wait for without end."""
    if args.world_size <= 1:
        return value
    flag = torch.tensor(int(value), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
