"""A trainer that can be tried out: what its passes draw, count and switch is put back."""

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
    """Run passes of a trainer's models in evaluation mode; random states, modes and counts are as before afterwards."""
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
    """Numbers, texts and containers of them: what a trainer keeps count with."""
    if isinstance(value, dict):
        return all(is_plain(one) for one in value.values())
    if isinstance(value, list | tuple | deque):
        return all(is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | float | str)
