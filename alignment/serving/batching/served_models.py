"""The models that a server offers: their names, and a base that several of them share held once."""

from __future__ import annotations

import copy
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError, gathered, raise_all
from alignment.models.checkpoints import (
    adapter_base,
    adapter_folder,
    is_adapter,
    lasting_changes,
    require_checkpoint,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """A checkpoint (folder or hub id) and the name that clients use for it."""

    name: str
    checkpoint: str


@dataclass(frozen=True)
class Served:
    """A loaded model.

    Attributes:
        checkpoint: folder or hub id, which clients do not see.
        digest: SHA-256 of its weights, with those of an adapter's base; None for a hub id.
        base: name of the served model whose weights an adapter shares, or None.
    """

    name: str
    checkpoint: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str | None = None
    base: str | None = None


def read_names(arguments: Sequence[str]) -> list[Named]:
    """Return the checkpoints of a command line, each `CKPT` or `NAME=CKPT`.

    Without a name, a checkpoint is called as its folder, or as the folder above if its own is called `checkpoint`.

    Raises:
        UserError: a name that cannot be one, a name twice, or no such checkpoint.
    """
    named = [_read_name(argument) for argument in arguments]
    errors = [
        UserError(
            "a model's name has characters that a name cannot have",
            got=one.name or "an empty name",
            expected="letters, digits, dots, hyphens and underscores, at most 64",
            fix=f"another name: NAME={one.checkpoint}",
        )
        for one in named
        if not NAME.fullmatch(one.name)
    ]
    counts = Counter(one.name for one in named)
    errors += [
        UserError(
            f"several models are called {name}",
            got=", ".join(one.checkpoint for one in named if one.name == name),
            expected="a name for each",
            fix="names of your own: NAME=CKPT OTHER=CKPT",
        )
        for name, count in counts.items()
        if count > 1
    ]
    for one in named:
        with gathered(errors):
            require_checkpoint(one.checkpoint)
    raise_all(errors)
    return named


def _read_name(argument: str) -> Named:
    name, equals, checkpoint = argument.partition("=")
    if equals and not Path(argument).exists():
        return Named(name, checkpoint)
    parts = Path(argument).resolve().parts if Path(argument).exists() else Path(argument).parts
    return Named(
        parts[-2] if parts[-1:] == ("checkpoint",) and len(parts) > 1 else parts[-1] if parts else "", argument
    )


def load_models(named: Sequence[Named], device: str) -> list[Served]:
    """Load models, with one copy of a base that several of them need.

    Raises:
        UserError: a checkpoint cannot be loaded; all of them are tried.
    """
    errors: list[UserError] = []
    bases: list[tuple[str, str | None]] = []
    for one in named:
        with gathered(errors):
            bases.append((one.name, base_to_share(one.checkpoint)))
    raise_all(errors)
    counts = Counter(base for _, base in bases)
    shared: dict[str, tuple[str, PreTrainedModel]] = {}
    loaded = []
    for one, (_, base) in zip(named, bases, strict=True):
        with gathered(errors):
            if base is None or counts[base] == 1:
                loaded.append(_load_alone(one, device))
            else:
                loaded.append(_load_sharing(one, base, shared, device))
    raise_all(errors)
    return loaded


def base_to_share(checkpoint: str) -> str | None:
    """Return the weights that a model could share with others: its own, or its base's if it is an adapter.

    None for an adapter that changes weights of its base, and for one whose base is quantised.
    """
    if not is_adapter(checkpoint):
        return _place(checkpoint)
    change = lasting_changes(checkpoint)
    if change is not None:
        logger.info("%s: does not share its base: %s", checkpoint, change)
        return None
    return _place(adapter_base(checkpoint))


def _place(checkpoint: str) -> str:
    return str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint


def _load_alone(one: Named, device: str) -> Served:
    from alignment.models.loading import load_causal_lm

    model, tokenizer = load_causal_lm(one.checkpoint)
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):  # an adapter that could not be merged
        model = model.get_base_model()
    return Served(one.name, one.checkpoint, _ready(model, device), tokenizer, _digest(one.checkpoint))


def _load_sharing(one: Named, base: str, shared: dict[str, tuple[str, PreTrainedModel]], device: str) -> Served:
    """Load a model whose base is one of `shared`, or becomes one.

    Its adapter is not merged: the weights that others use stay as they are.
    """
    from alignment.models.loading import load_tokenizer, load_trainable
    from alignment.models.vocabulary import require_rows

    if base not in shared:
        whole = load_trainable(base, "causal-lm")
        shared[base] = (one.name, _ready(whole, device))
    first, whole = shared[base]
    model = view_of(whole, own_embeddings=trains_token_rows(one.checkpoint))
    if is_adapter(one.checkpoint):
        model = load_trainable(one.checkpoint, "causal-lm", base=model)
        merge_token_rows(model)
        model = model.get_base_model()
    tokenizer = load_tokenizer(one.checkpoint)
    require_rows(model, tokenizer, one.checkpoint)
    digest, of = _digest(one.checkpoint), first if first != one.name else None
    return Served(one.name, one.checkpoint, _ready(model, device), tokenizer, digest, of)


def view_of(model: PreTrainedModel, own_embeddings: bool = False) -> PreTrainedModel:
    """Return a model of its own layers, in which adapters can be put, around the tensors of another.

    Args:
        own_embeddings: copy the tables of the input and output layers.
    """
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    if own_embeddings:
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                tensors.pop(id(layer.weight), None)
    return copy.deepcopy(model, tensors)


def trains_token_rows(checkpoint: str) -> bool:
    """Return whether a checkpoint is an adapter that trained rows of its base's embeddings."""
    if not is_adapter(checkpoint):
        return False
    from alignment.models.examined.adapter_settings import load_adapter_settings

    return bool(getattr(load_adapter_settings(adapter_folder(checkpoint)), "trainable_token_indices", None))


def merge_token_rows(model: PreTrainedModel) -> None:
    """Write the rows that an adapter trained into the tables, which PEFT would copy in every forward pass."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for module in model.modules():
        if isinstance(module, TrainableTokensLayer):
            module.merge()


def _ready(model: PreTrainedModel, device: str) -> PreTrainedModel:
    return model.to(device).eval().requires_grad_(False)


def _digest(checkpoint: str) -> str | None:
    from eval.harness.store import checkpoint_digest

    return checkpoint_digest(checkpoint)
