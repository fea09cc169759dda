"""Try out a trainer, and restore random states, modes and counters afterwards."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import Trainer


@contextmanager
def untouched(trainer: Trainer) -> Iterator[None]:
    """Put a trainer's models in evaluation mode; restore random states, modes and counters afterwards."""
    modules = [module for module in vars(trainer).values() if isinstance(module, torch.nn.Module)]
    modes = [(module, module.training) for model in modules for module in model.modules()]
    counts = {name: copy.deepcopy(value) for name, value in vars(trainer).items() if is_plain(value)}
    tokens = trainer.state.num_input_tokens_seen
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            for model in modules:
                model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        for module, training in modes:
            module.training = training
        for name, value in counts.items():
            setattr(trainer, name, value)
        trainer.state.num_input_tokens_seen = tokens


def is_plain(value: Any) -> bool:
    """Whether a value holds only numbers and texts, as a trainer's counters do."""
    if isinstance(value, dict):
        return all(is_plain(item) for item in value.values())
    if isinstance(value, list | tuple | deque):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
