"""Embedding rows for tokens that a base model does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def rows_of(model: PreTrainedModel) -> int:
    """Return the number of rows of a model's input embeddings."""
    return model.get_input_embeddings().weight.shape[0]


def make_room(model: PreTrainedModel, rows: int) -> range:
    """Grow a model's embeddings and output layer to a number of rows, and return the range of new rows.

    A new row is the mean of the old rows. It is the same each time, so that an adapter, which stores the rows that it
    trained, finds the model that it was trained on; and new tokens are at first no likelier than others (Hewitt 2021,
    nlp.stanford.edu/~johnhew/vocab-expansion.html).
    """
    import torch

    before = rows_of(model)
    if rows <= before:
        return range(0)
    model.resize_token_embeddings(rows, mean_resizing=False)
    output = model.get_output_embeddings()
    with torch.no_grad():
        for layer in filter(None, (model.get_input_embeddings(), output)):
            layer.weight[before:] = layer.weight[:before].float().mean(0).to(layer.weight)
            if getattr(layer, "bias", None) is not None:
                layer.bias[before:] = layer.bias[:before].mean()
    return range(before, rows)


def trained_rows(model: PreTrainedModel, tokens: list[int]) -> list[int] | dict[str, list[int]]:
    """Return PEFT's `trainable_token_indices`: the tokens if embeddings are tied, otherwise the tokens per layer."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if layers[1] is None or layers[0].weight is layers[1].weight:
        return tokens
    return {_name(model, layer): tokens for layer in layers}


def _name(model: PreTrainedModel, layer: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer).rpartition(".")[2]
