"""Embedding rows for tokens that a base model does not have, or has never seen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LISTED = 6


def rows_of(model: PreTrainedModel) -> int:
    """Return the number of rows of a model's input embeddings."""
    return model.get_input_embeddings().weight.shape[0]


def require_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> None:
    """Raise if a tokenizer writes tokens for which a model has no row of embeddings.

    Special tokens that only other models of the family use may lie beyond the rows, as Gemma 3's <image_soft_token>
    does in its models without images.
    """
    rows, vocabulary = rows_of(model), tokenizer.get_vocab()
    if max(vocabulary.values(), default=-1) < rows:
        return
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    unused = set(tokenizer.all_special_tokens) | special
    named = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token, tokenizer.unk_token}
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    unused = {token for token in unused - named if token not in template}
    beyond = {token: index for token, index in vocabulary.items() if index >= rows and token not in unused}
    if beyond:
        first = sorted(beyond, key=lambda token: beyond[token])[:LISTED]
        raise UserError(
            f"the tokenizer of {checkpoint} has tokens beyond the model's embeddings",
            got=f"{len(beyond)} tokens, such as {', '.join(first)}; the embeddings have {rows:,} rows",
            expected=f"token ids below {rows:,}",
            fix="copy the tokenizer that the model was trained with; or, for new tokens, give the model rows for them: "
            "model.resize_token_embeddings(len(tokenizer))",
        )


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


def start_as(model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Mapping[str, str]) -> None:
    """Let tokens start as texts: their rows of embeddings and output layer become the means of their texts' rows.

    Tokens that pretraining never shows, such as turn markers, are only pushed away from all text, to one and the same
    row if embeddings are tied. Fine-tuning then has to learn what to do at them; a marker that starts as the words that
    had its part in pretraining finds that learned (Hewitt 2021 starts new tokens at the mean of all rows).

    Args:
        model: ready to train; of an adapter, the rows that it trains are set, and those of its base stay.
        texts: token -> a text (`tokenize_within`) without any of the tokens.
    """
    import torch

    tokens = tokenizer.convert_tokens_to_ids(list(texts))
    pieces = [tokenize_within(tokenizer, text) for text in texts.values()]
    with torch.no_grad():
        for base, trained, places in _tables_to_train(model):
            if not len(base):
                raise UserError(
                    "start_tokens_as needs whole embeddings", got="DeepSpeed's ZeRO stage 3, which splits them"
                )
            for token, ids in zip(tokens, pieces, strict=True):
                trained[places[token] if places else token] = base[ids].float().mean(0).to(trained)


def _tables_to_train(model: Any) -> Iterator[tuple[Tensor, Tensor, dict[int, int]]]:
    """Yield the tables of the input and output layer that are trained.

    Yields:
        The table of the model, or of the adapter's base; the table whose rows are trained; and the places of tokens in
        it, if these are not their ids.
    """
    for layer in filter(None, (model.get_input_embeddings(), model.get_output_embeddings())):
        if (rows := getattr(layer, "token_adapter", None)) is not None:  # PEFT's layer for trained rows
            if rows.tied_adapter is None:
                adapter = rows.active_adapters[0]
                places = {token: place for place, token in enumerate(rows.token_indices[adapter])}
                yield rows.get_base_layer().weight, rows.trainable_tokens_delta[adapter], places
            continue
        if hasattr(layer, "modules_to_save"):
            layer = layer.modules_to_save[layer.active_adapters[0]]
        for table in (layer.weight, getattr(layer, "bias", None)):
            if table is not None and table.requires_grad:
                yield table, table, {}


def tokenize_within(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text that follows another, in which special tokens are text as any other.

    SentencePiece and others begin a text with a space, but not in its middle.
    """
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    before, whole = (list(tokenizer(given, **plain)["input_ids"]) for given in ("a", f"a{text}"))
    follows = whole[: len(before)] == before
    return whole[len(before) :] if follows else list(tokenizer(text, **plain)["input_ids"])


def trained_rows(
    model: PreTrainedModel, tokens: list[int], whole: Collection[str] = ()
) -> list[int] | dict[str, list[int]] | None:
    """Return PEFT's `trainable_token_indices`: the tokens if embeddings are tied, otherwise the tokens per layer.

    Args:
        whole: names of layers that an adapter trains as a whole, which need no rows of their own.

    Returns:
        None if no rows are left to train.
    """
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if is_tied(model) or layers[1] is None:
        covered = any(layer is not None and is_named(_path(model, layer), whole) for layer in layers)
        return None if covered else tokens
    rows = {_name(model, layer): tokens for layer in layers if not is_named(_path(model, layer), whole)}
    return rows or None


def is_tied(model: PreTrainedModel) -> bool:
    """Return whether a model's output layer has the weights of its input embeddings."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def is_named(path: str, names: Collection[str]) -> bool:
    """Return whether one of several names means a module, as PEFT's lists of modules do: by the end of its path."""
    return any(f".{path}".endswith(f".{name}") for name in names)


def _path(model: PreTrainedModel, layer: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer)


def _name(model: PreTrainedModel, layer: nn.Module) -> str:
    return _path(model, layer).rpartition(".")[2]
