"""The record of an adapter's chain in its finished checkpoint."""

import shutil
from dataclasses import replace
from pathlib import Path

from peft import PeftModel

from alignment.durable.manifest import sha256
from alignment.models.chain import (
    ADAPTER_WEIGHTS,
    Chain,
    Link,
    earlier_name,
    read_chain,
    read_merged_from,
    weights_digest,
)
from alignment.models.checkpoints import ADAPTER_CONFIG, adapter_base, adapter_folder, is_adapter
from alignment.models.loading import load_config
from alignment.models.quantization import quantization_of
from alignment.models.vocabulary import rows_of


def record_chain(model: PeftModel, checkpoint: Path, stage: str, parent: str | None, parent_stage: str | None) -> Chain:
    """Write an adapter's base and the adapters below it to its checkpoint, with copies of those adapters.

    Args:
        stage: the stage that trained the adapter.
        parent: the checkpoint that the stage started from.
        parent_stage: the parent's name in the lineage.
    """
    base = model.peft_config[model.active_adapter].base_model_name_or_path
    below: list[Link] = []
    sources = Path()
    if parent and is_adapter(parent) and adapter_base(parent) == base:
        below, sources = _links(parent, parent_stage), adapter_folder(parent)
    count = len(model.active_adapters)
    trained_by = (
        [*below[-1].stages, stage] if len(below) == count else [stage]
    )  # the parent's adapter was trained further
    links = [replace(link, folder=earlier_name(position)) for position, link in enumerate(below[: count - 1], 1)]
    for source, link in zip(below, links, strict=False):
        (checkpoint / link.folder).mkdir(exist_ok=True)
        for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
            shutil.copyfile(sources / source.folder / name, checkpoint / link.folder / name)
    rows, of_base = rows_of(model.get_base_model()), load_config(base).get_text_config().vocab_size
    chain = Chain(
        base=base,
        base_digest=weights_digest(base),
        links=[*links, Link(".", trained_by, sha256(checkpoint / ADAPTER_WEIGHTS))],
        quantization=quantization_of(model.get_base_model()),
        grown_to=rows if rows > of_base else None,
        merged_from=read_merged_from(base),
    )
    chain.write(checkpoint)
    return chain


def _links(adapter: str, stage: str | None) -> list[Link]:
    folder = adapter_folder(adapter)
    chain = read_chain(folder)
    return chain.links if chain else [Link(".", [stage or adapter], sha256(folder / ADAPTER_WEIGHTS))]
