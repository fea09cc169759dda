"""A checkpoint's probe: what its model says of a few fixed tokens, so that whoever loads it can see it is the same.

A stage records it of the weights that it ends with; the next one, which starts from them or scores with them, compares.
What is lost between two stages (an adapter that was not loaded, embeddings that were tied anew, another base) shows.
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
    """{ids, vocabulary, and a number for each row: log_probs of a causal LM, or scores of a reward model}."""
    config = inner(model).config.get_text_config()
    length = min(TOKENS, context_length(config) or TOKENS)
    ids = torch.randint(config.vocab_size, (ROWS, length), generator=keyed_generator("probe"))
    training = model.training
    model.eval()
    name = "scores" if hasattr(inner(model), "score") else "log_probs"
    said = {"ids": ids.tolist(), "vocabulary": config.vocab_size, name: answers(model, ids, config.vocab_size)}
    model.train(training)
    return said


def answers(model: nn.Module, ids: torch.Tensor, vocabulary: int) -> list[float]:
    """Of each row the mean log-probability of a token, or the mean of a classifier's score over the tokens.

    In the type of the weights, whatever training computes in: a 16-bit pass would hide a small adapter that is missing.

    Args:
        vocabulary: only so many of the logits count: the model may have grown since.
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
    """The probe of a stage's checkpoint; None of one from elsewhere, or from before there were probes."""
    if checkpoint is None or Path(checkpoint).name != "checkpoint":
        return None
    record = Path(checkpoint).parent / "stage.json"
    return read_json(record).get("probe") if record.exists() else None


def probe_tolerance(*modules: nn.Module) -> float:
    """The rounding between two machines, of a mean over a few tokens; quantised weights are computed in 16 bit."""
    types = {parameter.dtype for module in modules for parameter in module.parameters()}
    return 1e-4 if types <= {torch.float32, torch.float64} else 0.03


def compare(name: str, probe: dict[str, Any] | None, model: nn.Module) -> Iterator[Outcome]:
    """Whether a model says of a probe's tokens what its checkpoint said."""
    kind = "scores" if hasattr(inner(model), "score") else "log_probs"
    if probe is None or kind not in probe:
        return
    found = answers(model, torch.tensor(probe["ids"]), probe["vocabulary"])
    difference = max(abs(one - other) for one, other in zip(found, probe[kind], strict=True))
    yield Outcome(
        name,
        difference,
        probe_tolerance(model),
        failure=f"a model is not the one that its checkpoint holds ({name})",
        fix="see that the base and every adapter of the checkpoint are there and unchanged (align info --verify)",
    )
