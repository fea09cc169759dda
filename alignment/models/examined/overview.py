"""What the files of a model of any architecture say about it, without loading its weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.read import read_json
from alignment.models.checkpoints import adapter_base, adapter_folder, is_adapter
from alignment.models.context_length import context_length
from alignment.models.examined.weight_files import ADAPTER, MODEL, read_header, require_weights, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Overview:
    """A model of another architecture than this project's.

    Attributes:
        parameters: numbers in the files of weights, which hold tied weights once; None if the files are not here.
        dtypes: types of the numbers in the files, such as BF16.
        context: positions; None if the config does not name them.
        chat_template: whether the checkpoint has one; None if its files are not here.
        adapter: {base, type, parameters} of an adapter; its model is the base.
    """

    architecture: str
    parameters: int | None
    dtypes: list[str]
    context: int | None
    vocabulary: int
    chat_template: bool | None
    adapter: dict[str, Any] | None


def overview(checkpoint: str, config: PreTrainedConfig) -> Overview:
    """Describe a checkpoint by its config and its files.

    Args:
        checkpoint: a folder or hub id, of a model or an adapter.
        config: of the model; for an adapter, of its base.

    Raises:
        UserError: the files of weights are damaged, or some are missing.
    """
    base = adapter_base(checkpoint) if is_adapter(checkpoint) else None
    folder, adapter = _folder(base or checkpoint), None
    if base:
        own = adapter_folder(checkpoint)
        kind = read_json(own / "adapter_config.json").get("peft_type")
        adapter = {"base": base, "type": kind, "parameters": _numbers(own, ADAPTER)[0]}
    parameters, dtypes = _numbers(folder, MODEL) if folder else (None, [])
    places = [_folder(checkpoint), folder] if base else [folder]
    return Overview(
        architecture=(config.architectures or [config.model_type])[0],
        parameters=parameters,
        dtypes=dtypes,
        context=context_length(config),
        vocabulary=config.get_text_config().vocab_size,
        chat_template=any(map(_has_template, filter(None, places))) if any(places) else None,
        adapter=adapter,
    )


def _folder(checkpoint: str) -> Path | None:
    """The folder of a checkpoint's files: the local one, or that of a hub id in the cache."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(checkpoint, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _numbers(folder: Path, name: str) -> tuple[int | None, list[str]]:
    """The count and the types of the numbers in safetensors files; nothing for a folder with other files."""
    if not any(folder.glob(f"{name}*.safetensors*")):
        return None, []
    require_weights(folder, name)
    entries = [entry for file in weight_files(folder, name) for entry in read_header(file).values()]
    return sum(prod(entry["shape"]) for entry in entries), sorted({entry["dtype"] for entry in entries})


def _has_template(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or bool(
        settings.is_file() and read_json(settings).get("chat_template")
    )
