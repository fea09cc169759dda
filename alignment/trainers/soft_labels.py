"""Preference losses with a probability per pair instead of a label, for TRL's trainers of DPO and of reward models.

If the chosen reply is better with probability p, a pair's loss is p L(z) + (1 - p) L(-z), where L(z) = -log sigmoid(z)
and z is the logit of the preference: beta times the difference of the log-ratios (DPO), or the difference of the
scores (a reward model). As L(-z) = L(z) + z, that is TRL's own loss plus (1 - p) z: the trainers below add the second
term to the loss that TRL computes. With the same p for all pairs it is conservative DPO with a label smoothing of 1 - p
(Mitchell 2023, https://ericmitchell.ai/cdpo.pdf). An SFT term of DPO (`loss_type: [sigmoid, sft]`) is about the chosen
reply alone: it has no label, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from trl import DPOTrainer, RewardTrainer

PROBABILITY = "probability_of_chosen"  # the column of the tokenized pairs, and the key of a batch
SOFT_LOSS, SFT_LOSS = "sigmoid", "sft"  # TRL's names of the losses that DPO may have with soft labels


class SoftDPOTrainer(DPOTrainer):
    """`DPOTrainer` with the loss `sigmoid`, alone or with `sft`, whose pairs have their chosen reply's probability."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        batch, wrong = without_probabilities(inputs)
        with passes_of(self.model, self.ref_model) as passes:
            found = super().compute_loss(model, batch, return_outputs, num_items_in_batch)
        loss, outputs = found if return_outputs else (found, None)
        policy = sums(passes[0].log_probs, batch)
        if self.precompute_ref_logps:
            reference = torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]])
        else:
            reference = sums(passes[1].log_probs, batch)
        chosen, rejected = (policy - reference).chunk(2)
        weight = sum(one for kind, one in zip(self.loss_types, self.loss_weights, strict=True) if kind == SOFT_LOSS)
        loss = with_soft_labels(loss, wrong, weight * self.beta * (chosen - rejected))
        return (loss, outputs) if return_outputs else loss


class SoftRewardTrainer(RewardTrainer):
    """`RewardTrainer` whose pairs have the probability of their chosen reply, and no margin."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        batch, wrong = without_probabilities(inputs)
        loss, outputs = super().compute_loss(model, batch, True, num_items_in_batch)
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        loss = with_soft_labels(loss, wrong, chosen - rejected)
        return (loss, outputs) if return_outputs else loss


def with_soft_labels(loss: Tensor, wrong: Tensor, logits: Tensor) -> Tensor:
    """Add the mean of (1 - p) z to the mean of -log sigmoid(z).

    Args:
        wrong: 1 - p of each pair. (B,)
        logits: z. (B,)
    """
    return loss + (wrong * logits).mean().to(loss.dtype)


def without_probabilities(inputs: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """A batch as TRL takes it, and the probability of each pair that its rejected reply is better. -> (B,)"""
    return {key: value for key, value in inputs.items() if key != PROBABILITY}, 1 - inputs[PROBABILITY]


def sums(log_probs: Tensor, batch: dict[str, Any]) -> Tensor:
    """The log-probability of each reply, which TRL's loss sums likewise. (2B, T) -> (2B,)"""
    return log_probs[:, -(batch["completion_mask"].size(1) - 1) :].sum(1)


@contextmanager
def passes_of(*models: nn.Module | None) -> Iterator[list[Any]]:
    """Record what models return, in the order of their passes: of TRL's DPO the policy's, then the reference's."""
    found: list[Any] = []
    handles = [
        model.register_forward_hook(lambda module, given, outputs: found.append(outputs))
        for model in {id(model): model for model in models if model is not None}.values()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def collate_probabilities(trainer: Trainer) -> None:
    """Make a trainer's batches hold the column PROBABILITY, which TRL's collators leave out."""
    trainer.args.remove_unused_columns = False  # TRL's collators ignore the other columns
    trainer.data_collator = WithProbabilities(trainer.data_collator)


class WithProbabilities:
    """A collator of pairs, with the probability of each."""

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(examples)
        batch[PROBABILITY] = torch.tensor([example[PROBABILITY] for example in examples], dtype=torch.float)
        return batch
