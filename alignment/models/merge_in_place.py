"""Merging of a loaded model's adapters into its weights, and whether its logits are the same afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.models.vocabulary import is_tied

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

# Largest change of a logit by rounding of the merged weights, relative to the largest |logit|, per type that they are
# kept in. In 16 bits every matrix is rounded.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2}


def merge_in_place(model: PeftModel) -> PreTrainedModel:
    """Merge a model's active adapters into its weights, and return it without PEFT's wrapper.

    An adapter may change one of two layers that share their weights (tied embeddings), or both in different ways:
    LoRA's `target_modules: [lm_head]`. Merged into the shared weights, it would change both layers, so that the output
    layer gets weights of its own first.
    """
    import torch
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    adapted = any(isinstance(one, BaseTunerLayer) and not isinstance(one, TrainableTokensLayer) for one in layers)
    if adapted and is_tied(base):
        output = layers[1].get_base_layer() if isinstance(layers[1], BaseTunerLayer) else layers[1]
        output.weight = torch.nn.Parameter(output.weight.detach().clone(), requires_grad=False)
    merged = model.merge_and_unload()
    if merged.get_output_embeddings() is not None and not is_tied(merged):
        merged.config.get_text_config().tie_word_embeddings = merged.config.tie_word_embeddings = False
    return merged


def logits_of(model: PreTrainedModel | PeftModel, tokens: int) -> Tensor:
    """Return a model's logits for a row of tokens spread over the vocabulary."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.linspace(0, vocabulary - 1, min(tokens, vocabulary), device=model.device).long()[None]
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def change_of(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest difference between two tensors of logits, and the largest |logit| expected."""
    return (found - expected).abs().max().item(), expected.abs().max().item()
