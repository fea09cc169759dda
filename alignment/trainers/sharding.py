"""Whether a training shards its model across processes, wherever that is asked for."""

from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import TrainingArguments

# What accelerate calls the ways to split a model among the processes -> their names.
SHARDED = {
    DistributedType.FSDP: "FSDP",
    DistributedType.DEEPSPEED: "DeepSpeed",
    DistributedType.MEGATRON_LM: "Megatron",
}


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
