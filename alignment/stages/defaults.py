"""Defaults that depend on the machine: what the recipe leaves open."""

import torch


class HardwareDefaults:
    """Mixed in before a TrainingArguments class: bf16 where the hardware has it, less memory for time only on a GPU.

    TRL's own defaults (bf16 and activation checkpointing always on) are refused on a CPU, or slow it down.
    """

    def __post_init__(self):
        on_gpu = torch.cuda.is_available()
        if self.bf16 is None:
            self.bf16 = on_gpu and torch.cuda.is_bf16_supported() and not self.fp16
        if self.activation_checkpointing is None:
            self.activation_checkpointing = on_gpu
        # Pinned pages speed up copies to a GPU; without one torch only warns about them.
        self.dataloader_pin_memory = self.dataloader_pin_memory and on_gpu
        super().__post_init__()
