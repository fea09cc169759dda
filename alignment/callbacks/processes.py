"""Facts and decisions that the processes of one training share."""

import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import TrainingArguments

from alignment.errors import UserError

# What accelerate calls the ways to split a model among the processes -> their names.
SHARDED = {
    DistributedType.FSDP: "FSDP",
    DistributedType.DEEPSPEED: "DeepSpeed",
    DistributedType.MEGATRON_LM: "Megatron",
}


def launched() -> int:
    """Return the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def model_is_sharded() -> bool:
    """Whether the launcher shards the model across processes."""
    return any(parse_flag_from_env(f"ACCELERATE_USE_{name}") for name in ("FSDP", "DEEPSPEED"))


def sharding(args: TrainingArguments, accelerator: Accelerator | None = None) -> str | None:
    """Return what shards the model across processes, and where it is asked for; None if each process has all of it.

    FSDP and DeepSpeed come by the recipe, by the environment of `accelerate launch` and its config file (the trainer's
    arguments then know nothing of them), or by what a script has set up in accelerate before.

    Args:
        accelerator: the trainer's, once there is one.
    """
    for name, asked in (("FSDP", args.fsdp), ("DeepSpeed", args.deepspeed)):
        if asked:
            return f"{name}, by the recipe"
        if parse_flag_from_env(f"ACCELERATE_USE_{name.upper()}"):
            return f"{name}, by the launcher (ACCELERATE_USE_{name.upper()})"
    kind = None if accelerator is None else SHARDED.get(accelerator.distributed_type)
    return None if kind is None else f"{kind}, by accelerate"


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
    flag = torch.tensor(int(value), device=args.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
