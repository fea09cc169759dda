"""Adapters on a model: loading a chain of adapters, running several at once, copying."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError
from alignment.models.chain import ADAPTER_WEIGHTS, OWN, earlier_name, read_chain
from alignment.models.checkpoints import REFUSALS, is_full_memory, summary
from alignment.models.examined.adapter_settings import load_adapter_settings
from alignment.models.examined.loaded_weights import named, not_finite
from alignment.models.examined.weight_files import ADAPTER, require_weights
from alignment.models.vocabulary import is_named

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel

TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"  # how PEFT names the rows of embeddings that an adapter trained


def with_adapter(base: PreTrainedModel, folder: Path, kind: str) -> PeftModel:
    """Load an adapter, trainable, and the earlier adapters of its chain, frozen, onto their base.

    If the model is a classifier and the adapter a causal LM's, the adapter gets a new trainable score head.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    (config, weights), chain = read_adapter(folder), read_chain(folder)
    new_head = kind == "sequence-classification" and config.task_type != "SEQ_CLS"
    if new_head:
        config.task_type = "SEQ_CLS"
        weights = _without_output_layer(base, config, weights)
    config.inference_mode, config.base_model_name_or_path = False, base.name_or_path
    with fitted(folder, base.name_or_path):
        if chain and chain.earlier:
            model = frozen_stack(base, [folder / link.folder for link in chain.earlier], kind)
            put_on_top(model, config)
        else:
            model = get_peft_model(base, config)
        # The weights of the new head, overwritten by all weights that the checkpoint has.
        own = get_peft_model_state_dict(model, adapter_name=OWN) if new_head else {}
        require_fit(folder, model, set_peft_model_state_dict(model, own | weights, adapter_name=OWN), OWN)
    return model


def read_adapter(folder: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Read the settings and weights of an adapter's folder.

    Raises:
        UserError: they are missing or damaged, or weights are integers or not finite.
    """
    from peft import load_peft_weights

    config = load_adapter_settings(folder)
    require_weights(folder, ADAPTER)
    weights = load_peft_weights(str(folder))
    plain = {name: tensor for name, tensor in weights.items() if not name.endswith(("indices", "ranknum"))}
    integers = [name for name, tensor in plain.items() if not (tensor.is_floating_point() or tensor.is_complex())]
    if integers:
        raise UserError(
            f"the adapter {folder} has integers for weights, which were rounded from small numbers: most are 0",
            got=named(integers),
            expected="floating-point weights",
            fix="copy the adapter again, in the type that it was trained in",
        )
    if broken := not_finite(weights.items()):
        raise UserError(
            f"the weights of the adapter {folder} are not finite",
            got=f"NaN or infinity in {named(broken)}",
            expected="numbers",
            fix="give a checkpoint from before the training diverged, or copy this one again",
        )
    return config, weights


def frozen_stack(base: PreTrainedModel, folders: Sequence[Path], kind: str) -> PeftModel:
    """Load the adapters of several folders onto a base, all active and none of them trainable.

    Embedding rows that they trained replace the base's rows, which is equivalent: PEFT keeps such rows for only one
    adapter of a model.
    """
    from peft import get_peft_model, set_peft_model_state_dict

    names = [earlier_name(position) for position in range(1, len(folders) + 1)]
    model: PeftModel | PreTrainedModel = base
    for name, folder in zip(names, folders, strict=True):
        config, weights = read_adapter(folder)
        config.base_model_name_or_path = base.name_or_path
        with fitted(folder, base.name_or_path):
            weights = _without_token_rows(base, config, weights)
            if kind == "sequence-classification":
                config.task_type = None  # PEFT's wrapper for adapters of causal LMs expects a causal LM
            if model is base:
                model = get_peft_model(base, config, adapter_name=name)
            else:
                model.add_adapter(name, config)
            require_fit(folder, model, set_peft_model_state_dict(model, weights, adapter_name=name), name)
    model.requires_grad_(False)
    run_under(model, names[::-1])
    return model


def _without_output_layer(base: PreTrainedModel, config: PeftConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the output layer and its rows from a causal LM's adapter, and add the head: a classifier has no such layer.

    The adapter's other layers that were trained as a whole stay.
    """
    layers = dict(base.named_modules())
    names = {name.rpartition(".")[2] for name in layers}
    saved = config.modules_to_save or []
    config.modules_to_save = [
        "score",
        *(name for name in saved if name != "score" and any(is_named(one, [name]) for one in layers)),
    ]
    if isinstance(getattr(config, "trainable_token_indices", None), dict):
        rows = config.trainable_token_indices
        config.trainable_token_indices = {name: tokens for name, tokens in rows.items() if name in names}
    gone = [name for name in saved if name not in config.modules_to_save]
    return {
        key: value
        for key, value in weights.items()
        if (not key.endswith(TOKEN_ROWS) or _layer_of_rows(key) in layers)
        and not is_named(key.rpartition(".")[0], gone)
    }


def _layer_of_rows(key: str) -> str:
    return key.removeprefix("base_model.model.").removesuffix(TOKEN_ROWS)


def _without_token_rows(base: PreTrainedModel, config: PeftConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Write the embedding rows that an adapter trained into the base, and return the adapter's other weights."""
    indices, config.trainable_token_indices = getattr(config, "trainable_token_indices", None), None
    left = {}
    for key, value in weights.items():
        if not key.endswith(TOKEN_ROWS):
            left[key] = value
            continue
        path = _layer_of_rows(key)
        rows = indices[path.rpartition(".")[2]] if isinstance(indices, dict) else indices
        if path in dict(base.named_modules()):  # a classifier has no output layer
            table = base.get_submodule(path).weight.data
            table[rows] = value.to(table)
    return left


def put_on_top(model: PeftModel, config: PeftConfig) -> None:
    """Add a new adapter on top of a model's active ones; only the new one is trainable."""
    below = model.active_adapters
    model.add_adapter(OWN, config)
    model.requires_grad_(False)
    run_under(model, [OWN, *below])
    model.set_requires_grad(OWN)


def add_token_rows(model: PeftModel, folder: Path) -> None:
    """Add the trained embedding rows to a saved adapter: PEFT omits them when it converts PiSSA to LoRA."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    state = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    rows = {key: value.contiguous() for key, value in state.items() if key.endswith(TOKEN_ROWS)}
    save_file(load_file(folder / ADAPTER_WEIGHTS) | rows, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


@contextmanager
def token_rows_in_place(model: nn.Module) -> Iterator[None]:
    """Write the active adapter's trained embedding rows into the base's tables within the context, for generation.

    Otherwise PEFT copies the whole tables of the input and output layers in every forward pass: with a vocabulary of
    262,144 that is a large part of the cost of a token. Afterwards the base's rows are restored, bit for bit.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    layers = [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer in layers:
            if layer.merged:
                layer.unmerge()


def give_token_rows(model: PeftModel, config: PeftConfig, weights: dict[str, Tensor]) -> None:
    """Add, in place, rows of the base to an adapter in layers where the model's own adapters have trained rows.

    PEFT loads several adapters together only if all of them have trained rows in the same layers. Rows of the base do
    not change what the adapter computes.
    """
    from peft import get_peft_model_state_dict

    theirs = model.peft_config[model.active_adapter].trainable_token_indices
    rows = config.trainable_token_indices or {}
    for key in get_peft_model_state_dict(model, save_embedding_layers=False):
        if key.endswith(TOKEN_ROWS) and key not in weights:
            layer = model.get_base_model().get_submodule(_layer_of_rows(key))
            name = _layer_of_rows(key).rpartition(".")[2]
            if not isinstance(rows, dict):
                rows = {_input_layer(weights): rows}
            rows[name] = theirs[name] if isinstance(theirs, dict) else theirs
            weights[key] = layer.original_module.weight[rows[name]].detach().clone()
    config.trainable_token_indices = rows or None


def _input_layer(weights: dict[str, Tensor]) -> str:
    """Return the name of the layer whose rows an adapter trained, if it trained only the input layer's."""
    return next(_layer_of_rows(key).rpartition(".")[2] for key in weights if key.endswith(TOKEN_ROWS))


def require_targets(model: PreTrainedModel, targets: str | Collection[str]) -> None:
    """Raise if a model does not have the layers that are to get an adapter.

    Args:
        targets: suffixes of layer names, or a regular expression for whole names, as in PEFT.
    """
    from torch import nn

    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    if isinstance(targets, str):
        try:
            unmatched = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
        except re.error as error:
            raise UserError(
                "lora_target_modules is no regular expression",
                got=f"{targets}: {error}",
                expected="names of layers, or a regular expression for whole names",
            ) from error
    else:
        unmatched = [target for target in targets if not any(is_named(name, [target]) for name in names)]
    if unmatched:
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        raise UserError(
            "lora_target_modules names layers that the model does not have",
            got=", ".join(unmatched),
            expected=f"names of its layers: {', '.join(sorted(linear)) or 'none of them is linear'}",
            fix="correct the names, or omit lora_target_modules for all linear layers except the output layer",
        )


def require_fit(folder: str | Path, model: PeftModel, found: Any, name: str) -> None:
    """Raise if the weights that PEFT loaded for an adapter do not match its layers.

    Args:
        found: PEFT's result: the parameters without weights, and the weights without a parameter.
    """
    from peft import get_peft_model_state_dict

    # PEFT also reports parameters that it never saves: other names of tied rows, and what a seed gives.
    saved = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    of_adapter = [key.split(".") for key in found.missing_keys if name in key.split(".")]
    missing = [".".join(part for part in key if part not in (name, "modules_to_save")) for key in of_adapter]
    # DoRA's vectors are saved without `.weight`.
    missing = [key for key in missing if key in saved or key.removesuffix(".weight") in saved]
    if found.unexpected_keys or missing:
        got = [f"missing {named(missing)}"] * bool(missing)
        got += [f"not in the model: {named(found.unexpected_keys)}"] * bool(found.unexpected_keys)
        raise _misfit(folder, "; ".join(got))


@contextmanager
def fitted(folder: str | Path, base: str | None = None) -> Iterator[None]:
    """Turn PEFT's errors about an adapter and a base that do not fit each other into a UserError."""
    try:
        yield
    except REFUSALS as error:
        if is_full_memory(error):
            raise
        raise _misfit(folder, summary(error), base) from error


def _misfit(folder: str | Path, got: str, base: str | None = None) -> UserError:
    return UserError(
        f"the adapter {folder} does not fit its base{f' {base}' if base else ''}",
        got=got,
        expected="an adapter for the layers that the base has, in their sizes",
        fix="correct base_model_name_or_path in adapter_config.json, or copy the adapter again",
    )


def run_under(model: PeftModel, names: Sequence[str]) -> None:
    """Activate several adapters of a model at once, without changing which parameters are trainable.

    The newest adapter comes first: transformers' Trainer saves and resumes the first. PEFT's `set_adapter` makes the
    given adapters trainable and freezes the others, so that other adapters would silently get no gradients (peft#2436);
    `requires_grad` is therefore restored.
    """
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    model.set_adapter(names[0])
    model.base_model.set_adapter(list(names))
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trainable)


def frozen_copy(model: PeftModel) -> PreTrainedModel:
    """Return a frozen copy of a model with its adapters.

    It shares the frozen weights and copies the trainable ones. It is returned without PEFT's wrapper, whose forward
    pass TRL would patch instead of the reference model's.
    """
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    # The block constants of a 4-bit base, which its layers reference separately.
    constants = [one.quant_state for one in shared.values() if getattr(one, "quant_state", None) is not None]
    shared |= {id(one): one for one in constants}
    return copy.deepcopy(model, shared).requires_grad_(False).get_base_model()


def copy_adapter(model: PeftModel, source: str, target: str) -> None:
    """Copy all weights of one adapter of a model to another, including trained embedding rows and heads."""
    parameters = {tuple(name.split(".")): parameter for name, parameter in model.named_parameters()}
    for name, parameter in parameters.items():
        if source in name:
            parameters[tuple(target if part == source else part for part in name)].data.copy_(parameter.data)
