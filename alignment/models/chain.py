"""The chain of an adapter checkpoint: its base, and the adapters between the base and the checkpoint's own.

`adapter_chain.json` in the checkpoint records the chain. The earlier adapters are in subfolders, as PEFT saves several
adapters, so that a copied checkpoint is complete. A checkpoint without that file is a single adapter on its base.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignment.durable.atomic import write_json
from alignment.durable.manifest import FIX_DAMAGE, sha256
from alignment.durable.read import read_json
from alignment.errors import UserError

CHAIN_FILE = "adapter_chain.json"
MERGED_FILE = "merged_from.json"  # in a checkpoint of merged weights: the chain that was merged
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OWN = "default"  # PEFT's name for the checkpoint's own adapter
TYPES = {
    "base": str,
    "base_digest": str | None,
    "quantization": dict | None,
    "grown_to": int | None,
    "merged_from": dict | None,
}
SAMPLED = 4096  # bytes that a digest reads at a tensor's start, middle and end


@dataclass(frozen=True)
class Link:
    """An adapter of a chain.

    Attributes:
        folder: subfolder of the checkpoint, also the adapter's name in PEFT; `.` for the checkpoint's own.
        stages: the stages that trained it, in order.
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
    """A base and the adapters on it.

    Attributes:
        base: folder or hub id of the base when the adapter was trained.
        base_digest: `weights_digest` of the base.
        links: the adapters in the order in which they were added, the checkpoint's own last.
        quantization: quantisation of the base in training; None if it was not quantised.
        grown_to: number of rows that the base's embeddings were grown to for new tokens; None if they were not grown.
        merged_from: the chain that was merged into the base; None if the base is no merged model.
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
    """Read the chain that an adapter's folder records; None without a record."""
    if not (folder / CHAIN_FILE).is_file():
        return None
    return _chain_of(read_json(folder / CHAIN_FILE, FIX_DAMAGE), folder / CHAIN_FILE)


def _chain_of(content: dict[str, Any], file: Path) -> Chain:
    """Return the chain that a JSON object describes.

    Raises:
        UserError: it has other keys than those written, or values of other types.
    """
    try:
        chain = Chain(**content | {"links": [Link(**link) for link in content["links"]]})
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged", got=error, expected="a chain", fix=FIX_DAMAGE) from error
    wrong = [name for name, types in TYPES.items() if not isinstance(getattr(chain, name), types)]
    wrong += [f"links: {one}" for one in chain.links if not _is_link(one)]
    if chain.merged_from is not None and not wrong:
        _chain_of(chain.merged_from, file)
    if wrong or not chain.links:
        got = ", ".join(f"{name}: {getattr(chain, name, '')!r}" for name in wrong) or "no links"
        raise UserError(f"{file} is damaged", got=got, expected="a chain as it was written", fix=FIX_DAMAGE)
    return chain


def _is_link(one: Link) -> bool:
    stages = isinstance(one.stages, list) and all(isinstance(name, str) for name in one.stages)
    return isinstance(one.folder, str) and isinstance(one.digest, str) and stages


def read_merged_from(folder: str | Path) -> dict[str, Any] | None:
    """Read the chain that was merged into a checkpoint's weights; None without a record."""
    file = Path(folder) / MERGED_FILE
    if not file.is_file():
        return None
    content = read_json(file, FIX_DAMAGE)
    _chain_of(content, file)
    return content


def earlier_name(position: int) -> str:
    """Return the name of an earlier adapter by its position in the chain, counted from 1 at the base."""
    return f"earlier_{position}"


def weights_digest(folder: str | Path) -> str | None:
    """Return a SHA-256 over the names, types and shapes of a model's weights and three samples of each tensor.

    Training changes whole tensors, so that samples distinguish two models without reading all of their weights. None
    for anything but a folder with safetensors files (such as a hub id).
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
    """Raise if earlier adapters of a chain are missing or changed, or if the base is another model."""
    if chain is None:
        return
    for link in chain.earlier:
        weights = folder / link.folder / ADAPTER_WEIGHTS
        if not weights.is_file() or sha256(weights) != link.digest:
            raise UserError(
                f"{folder} needs an earlier adapter that is missing or changed",
                got=f"{'another file as' if weights.is_file() else 'no'} {weights}",
                expected=f"the adapter that {' and '.join(link.stages)} trained: without it this is another model",
                fix="copy the whole checkpoint folder, including its subfolders",
            )
    found = weights_digest(base)
    if found is not None and chain.base_digest is not None and found != chain.base_digest:
        raise UserError(
            f"{folder} was trained on another base",
            got=f"{base}, whose weights have the digest {found[:12]}",
            expected=f"the weights with the digest {chain.base_digest[:12]}: {chain.base} as it was then",
            fix="put that base back, or correct base_model_name_or_path in adapter_config.json",
        )
