"""Defaults that depend on the machine, for keys that the recipe leaves open."""

import importlib.util
import logging
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import TrainingArguments as Arguments
else:
    Arguments = object  # mixed in before a TrainingArguments class

logger = logging.getLogger(__name__)

COMPILED = ("torch_compile", "compile_layers")


class HardwareDefaults(Arguments):
    """Mixed in before a TrainingArguments class: bf16 if the hardware has it, activation checkpointing only on a GPU.

    TRL's own defaults (both always on) are refused on a CPU, or slow it down. A stage shows its own line of progress,
    and transformers' bars only with `disable_tqdm: false`.
    """

    bf16: bool | None
    activation_checkpointing: bool | None
    dataloader_pin_memory: bool
    disable_tqdm: bool | None

    def __post_init__(self):
        self.disable_tqdm = self.disable_tqdm is not False
        on_gpu = torch.cuda.is_available()
        if self.bf16 is None:
            self.bf16 = on_gpu and torch.cuda.is_bf16_supported() and not self.fp16
        if self.bf16 and not torch.accelerator.is_available() and lacks_bf16():
            logger.warning("bf16 has no effect: this CPU has no instructions for it")
            self.bf16 = False
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # otherwise transformers refuses bf16
        if self.activation_checkpointing is None:
            self.activation_checkpointing = on_gpu
        for key in COMPILED:
            if getattr(self, key, False) and not has_compiler(on_gpu):
                logger.warning("%s has no effect: there is no %s", key, "Triton" if on_gpu else "C++ compiler")
                setattr(self, key, False)
        # Pinned pages speed up copies to a GPU; without a GPU torch only warns.
        self.dataloader_pin_memory = self.dataloader_pin_memory and on_gpu
        super().__post_init__()


def lacks_bf16() -> bool:
    """Whether this is an x86 CPU without bf16 instructions (AVX-512 BF16 or AMX), which computes in 32 bit instead.

    False for other CPUs, and with torch before 2.10, which does not report capabilities.
    """
    found: dict = getattr(torch.cpu, "get_capabilities", dict)()
    return found.get("architecture") == "x86_64" and not (found.get("avx512_bf16") or found.get("amx_bf16"))


@dataclass
class SpeedLevers:
    """Mixed into the recipes of TRL's trainers: faster layers with the same results (`models.speed`)."""

    attention_in_float32: bool | None = field(
        default=None,
        metadata={"help": "With bf16: sdpa attention in 32 bit; default: true on a CPU, where it is faster."},
    )
    compile_layers: bool = field(
        default=False,
        metadata={
            "help": "Compile each layer instead of the whole model (torch_compile): identical layers compile once."
        },
    )


def has_compiler(on_gpu: bool) -> bool:
    """Whether torch.compile finds its compiler: Triton on a GPU, g++ (or the compiler that CXX names) on a CPU."""
    if on_gpu:
        return importlib.util.find_spec("triton") is not None
    return shutil.which(os.environ.get("CXX", "g++")) is not None
