"""Muon for the hidden matrices and AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignment.errors import UserError

MATRICES = (nn.Linear, Conv1D)


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW behind one list of parameter groups and one state, so that schedules and checkpoints hold.

    Muon's steps are as long as AdamW's (Liu et al. 2025, "Muon is scalable for LLM training": 0.2 sqrt(max(rows,
    columns)) times the orthogonal update), so that one learning rate can serve both.

    Args:
        matrices: the group of Muon, {params, lr, weight_decay, momentum}.
        others: the groups of AdamW.
        adamw: AdamW's other arguments.
    """

    def __init__(self, matrices: dict[str, Any], others: Sequence[dict[str, Any]], **adamw):
        self.muon = _muon()([matrices], adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, **adamw)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Both optimizers work on this one's groups and state."""
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self.muon.state = self.adamw.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss


def _muon() -> type[torch.optim.Optimizer]:
    if not hasattr(torch.optim, "Muon"):
        raise UserError(
            "this torch has no Muon",
            got=f"torch {torch.__version__}",
            expected="torch 2.9 or later",
            fix="upgrade torch, or set muon: false",
        )
    return torch.optim.Muon


def hidden_matrices(model: PreTrainedModel) -> set[str]:
    """Names of the trained weights of linear layers, apart from the output layer.

    Embeddings, output layer, norms and biases are AdamW's, as Muon's author has it; so are routers and the stacked
    weights of experts, for Muon takes single matrices.
    """
    head = model.get_output_embeddings()
    table = model.get_input_embeddings().weight
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, MATRICES) and module is not head and module.weight is not table
        if module.weight.requires_grad
    }
