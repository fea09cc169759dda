"""A machine without memory for more than some rows at a time."""

import torch

from alignment.models.gpt import GPTModel


def limit_rows(monkeypatch, rows: int, from_call: int = 0, error=None) -> None:
    """Let every forward pass for training fail that reads more rows."""
    forward, calls = GPTModel.forward, [0]

    def limited(self, input_ids=None, **kwargs):
        if torch.is_grad_enabled() and self.training:
            calls[0] += 1
            if len(input_ids) > rows and calls[0] > from_call:
                raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(GPTModel, "forward", limited)
