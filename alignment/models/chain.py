"""The chain of an adapter checkpoint: on which base it sits, and which adapters stand between the two.

`adapter_chain.json` beside the adapter says it, and the earlier adapters lie in folders beside it as PEFT itself saves
several adapters, so that a copied checkpoint is whole. A checkpoint without that file is an adapter of its base alone.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignment.durable.atomic import write_json
from alignment.durable.manifest import MEND, sha256
from alignment.durable.read import read_json
from alignment.errors import UserError

CHAIN_FILE = "adapter_chain.json"
MERGED_FILE = "merged_from.json"  # beside plain weights that a chain was merged into
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OWN = "default"  # PEFT's name of the adapter that a checkpoint is saved for
SAMPLED = 4096  # bytes of a tensor's start, middle and end that its digest reads


@dataclass(frozen=True)
class Link:
    """An adapter of a chain.

    Attributes:
        folder: where it lies in the checkpoint; PEFT's name of it too, but `.` for the checkpoint's own.
        stages: that trained it, one after the other.
        digest: SHA-256 of its weights.
    """

    folder: str
    stages: list[str]
    digest: str

    @property
    def name(self) -> str:
        return OWN if self.folder == "." else self.folder


@dataclass(frozen=True)
class Chain:
    """From the base outwards.

    Attributes:
        base: folder or hub id of the base, as it was named when the adapter was trained.
        base_digest: `weights_digest` of it.
        links: the adapters in their order, the checkpoint's own last.
        quantization: how the base was quantised in training; None where it was not.
        grown_to: rows that the base's embeddings were grown to for new tokens; None where it has all of them.
        merged_from: the chain that was merged into the base; None where the base is nothing of the kind.
    """

    base: str
    base_digest: str | None
    links: list[Link]
    quantization: dict[str, Any] | None = None
    grown_to: int | None = None
    merged_from: dict[str, Any] | None = field(default=None)

    @property
    def earlier(self) -> list[Link]:
        return self.links[:-1]

    def write(self, checkpoint: Path) -> None:
        write_json(checkpoint / CHAIN_FILE, asdict(self))


def read_chain(folder: Path) -> Chain | None:
    """The chain that an adapter's folder records; None where it records none."""
    if not (folder / CHAIN_FILE).is_file():
        return None
    content = read_json(folder / CHAIN_FILE, MEND)
    return Chain(**content | {"links": [Link(**link) for link in content["links"]]})


def read_merged_from(folder: str | Path) -> dict[str, Any] | None:
    """The chain that was merged into plain weights; None where there was none."""
    file = Path(folder) / MERGED_FILE
    return read_json(file, MEND) if file.is_file() else None


def earlier_name(position: int) -> str:
    """What the adapter at a position from the base, counted from 1, is called in a chain."""
    return f"earlier_{position}"


def weights_digest(folder: str | Path) -> str | None:
    """SHA-256 over a model's weights: of each file the names, types and shapes, and of each tensor three samples.

    Training changes all of a tensor: samples tell two models apart, and 16 GB need not be read for it. None for what is
    no folder with safetensors (a hub id).
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = stream.read(length)
            digest.update(header)
            tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
            for _, entry in sorted(tensors.items()):
                start, end = entry["data_offsets"]
                last = max(start, end - SAMPLED)
                for place in (start, (start + last) // 2, last):
                    stream.seek(8 + length + place)
                    digest.update(stream.read(min(SAMPLED, end - place)))
    return digest.hexdigest()


def require_whole(folder: Path, chain: Chain | None, base: str) -> None:
    """Raise where an adapter's chain is not there as it was recorded, or its base is another model."""
    if chain is None:
        return
    for link in chain.earlier:
        weights = folder / link.folder / ADAPTER_WEIGHTS
        if not weights.is_file() or sha256(weights) != link.digest:
            raise UserError(
                f"{folder} is a later adapter of a chain, and an earlier one is not there",
                got=f"{'another file as' if weights.is_file() else 'no'} {weights}",
                expected=f"the adapter that {' and '.join(link.stages)} trained: without it this is another model",
                fix="copy the whole checkpoint folder, with the folders in it",
            )
    found = weights_digest(base)
    if found is not None and chain.base_digest is not None and found != chain.base_digest:
        raise UserError(
            f"{folder} was trained on another base",
            got=f"{base}, whose weights have the digest {found[:12]}",
            expected=f"the weights with the digest {chain.base_digest[:12]}: {chain.base} as it was then",
            fix="put that base back, or correct base_model_name_or_path in adapter_config.json",
        )
