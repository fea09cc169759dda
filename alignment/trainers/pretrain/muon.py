"""Muon for the hidden matrices and AdamW for all other parameters, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignment.errors import UserError

MATRICES = (nn.Linear, Conv1D)


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW with a common list of parameter groups and state, so that schedules and checkpoints work.

    Muon's updates have the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training": 0.2 sqrt(max(rows,
    columns)) times the orthogonal update), so that both can use one learning rate.

    Args:
        matrices: parameter group of Muon: {params, lr, weight_decay, momentum}.
        others: parameter groups of AdamW.
        adamw: further arguments of AdamW.
    """

    def __init__(self, matrices: dict[str, Any], others: Sequence[dict[str, Any]], **adamw: Any) -> None:
        self.muon = _muon()([matrices], adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, **adamw)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let both optimizers work on the groups and the state of this optimizer."""
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self.muon.state = self.adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss


def _muon() -> Callable[..., torch.optim.Optimizer]:
    if not hasattr(torch.optim, "Muon"):
        raise UserError(
            "This version of torch has no Muon.",
            got=f"torch {torch.__version__}",
            expected="torch 2.9 or later",
            fix="upgrade torch, or set muon: false",
        )
    return torch.optim.Muon


def hidden_matrices(model: PreTrainedModel) -> set[str]:
    """Names of the trainable weights of linear layers, except the output layer.

    AdamW trains embeddings, output layer, norms and biases, as Muon's author recommends; also routers and the stacked
    weights of experts, since Muon takes single matrices.
    """
    head = model.get_output_embeddings()
    table = model.get_input_embeddings().weight
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, MATRICES) and module is not head and module.weight is not table
        if module.weight.requires_grad
    }
