"""Whether a model keeps packed documents apart, so that no document in a row attends to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError
from alignment.models.loading import load_config, load_trainable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 4  # of each document that is tried
OWN = "alignment_gpt"  # keeps documents apart, as its tests show


def keeps_documents_apart(model: PreTrainedModel) -> bool:
    """Return whether a document's logits are independent of the document before it in the row.

    The row is as packing makes it: position ids restart, and there is neither a mask nor a cache. Most models of
    transformers derive a mask from the position ids, also with sdpa and eager attention; others (OPT, Bloom, MPT,
    Falcon, recurrent models) silently let the second document attend to the first.
    """
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    first, other, second = torch.arange(3 * TOKENS, device=model.device).remainder(vocabulary).view(3, 1, TOKENS)
    positions = torch.arange(TOKENS, device=model.device).repeat(2)[None]
    training, outputs = model.training, []
    model.eval()
    for before in (first, other):
        with torch.no_grad():
            logits = model(input_ids=torch.cat((before, second), 1), position_ids=positions, use_cache=False).logits
        outputs.append(logits[:, TOKENS:].float())
    model.train(training)
    # Masked tokens have a weight of exactly zero; without a mask the difference is far larger than rounding.
    return (outputs[0] - outputs[1]).abs().max() <= 1e-5 * outputs[0].abs().max()


def require_documents_apart(checkpoint: str | Path, fix: str) -> None:
    """Raise if the model of a checkpoint (folder or hub id) lets packed documents attend to each other.

    The model is loaded and tried out, except this project's GPT.
    """
    config = load_config(checkpoint)
    if config.model_type != OWN and not keeps_documents_apart(load_trainable(checkpoint, "causal-lm")):
        raise UserError(
            f"{checkpoint} lets documents that are packed in one row attend to each other",
            got=f"a model of type {config.model_type}, whose attention ignores where position_ids restart",
            expected="a model that keeps packed documents apart, such as our GPT, GPT-2, Llama, Qwen3 or Gemma 3",
            fix=fix,
        )
