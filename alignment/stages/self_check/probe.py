"""Probe a model with a few fixed tokens, to verify that a loaded checkpoint is the model that was saved.

A stage records the probe of its final weights; a later stage, which starts from the checkpoint or scores with it,
compares. Faults between two stages show: an adapter that was not loaded, embeddings tied again, another base.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignment.durable.read import read_json
from alignment.keyed_seeds import keyed_generator
from alignment.models.context_length import context_length
from alignment.stages.self_check.prove import Outcome
from alignment.trainers.ppo.models import inner

ROWS, TOKENS = 2, 16


@torch.no_grad()
def make_probe(model: nn.Module) -> dict[str, Any]:
    """Return the probe: ids, vocabulary, and per row a log-probability (causal LM) or a score (reward model)."""
    config = inner(model).config.get_text_config()
    length = min(TOKENS, context_length(config) or TOKENS)
    ids = torch.randint(config.vocab_size, (ROWS, length), generator=keyed_generator("probe"))
    training = model.training
    model.eval()
    name = "scores" if hasattr(inner(model), "score") else "log_probs"
    probe = {"ids": ids.tolist(), "vocabulary": config.vocab_size, name: answers(model, ids, config.vocab_size)}
    model.train(training)
    return probe


def answers(model: nn.Module, ids: torch.Tensor, vocabulary: int) -> list[float]:
    """Return the mean log-probability per token of each row, or a classifier's mean score over the tokens.

    The pass runs in the type of the weights, not in training's type: 16 bit would hide a small adapter that is missing.

    Args:
        ids: [B, T].
        vocabulary: number of logits to use, as the model may have grown since.
    """
    device = inner(model).get_input_embeddings().weight.device
    ids, whole = ids.to(device), inner(model)
    with torch.autocast(device.type, enabled=False):
        if hasattr(whole, "score"):
            states = whole.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return whole.score(states)[..., 0].float().mean(1).tolist()
        logits = whole(input_ids=ids, use_cache=False).logits[:, :-1, :vocabulary].float()
        return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].mean(1).tolist()


def recorded(checkpoint: str | None) -> dict[str, Any] | None:
    """Return the probe recorded for a stage's checkpoint; None for other checkpoints, or if none was recorded."""
    if checkpoint is None or Path(checkpoint).name != "checkpoint":
        return None
    record = Path(checkpoint).parent / "stage.json"
    return read_json(record).get("probe") if record.exists() else None


def probe_tolerance(*modules: nn.Module) -> float:
    """Return the rounding between two machines of a mean over a few tokens; quantised weights compute in 16 bit."""
    types = {parameter.dtype for module in modules for parameter in module.parameters()}
    return 1e-4 if types <= {torch.float32, torch.float64} else 0.03


def compare(name: str, probe: dict[str, Any] | None, model: nn.Module) -> Iterator[Outcome]:
    """Compare a model's answers to a probe with those recorded for its checkpoint."""
    kind = "scores" if hasattr(inner(model), "score") else "log_probs"
    if probe is None or kind not in probe:
        return
    found = answers(model, torch.tensor(probe["ids"]), probe["vocabulary"])
    difference = max(abs(now - then) for now, then in zip(found, probe[kind], strict=True))
    yield Outcome(
        name,
        difference,
        probe_tolerance(model),
        failure=f"a model differs from its checkpoint ({name})",
        fix="check that the base and every adapter of the checkpoint are present and unchanged (align info --verify)",
    )
