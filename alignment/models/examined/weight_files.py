"""The files of a checkpoint's weights: whether they are all there, and whole.

The header of a safetensors file says how long the file is (github.com/huggingface/safetensors, "Format"), so that a
truncated download is found without reading the weights.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

from alignment.durable.read import FETCH, is_pointer, read_json
from alignment.errors import UserError

MODEL, ADAPTER = "model", "adapter_model"  # the names that transformers and PEFT give to files of weights
COPY = "copy or download the checkpoint again"
SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")
LISTED = 6
# Weights that neither transformers nor PEFT loads without a conversion.
FORMATS = {
    ".gguf": "GGUF",
    ".ggml": "GGML",
    ".onnx": "ONNX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".tflite": "TensorFlow Lite",
    ".nemo": "NeMo",
}
NOT_SAFETENSORS = {
    b"PK\x03\x04": "a pickle under the name of a safetensors file",
    b"\x80\x02": "a pickle under the name of a safetensors file",
    b"GGUF": "a GGUF file under the name of a safetensors file",
    b"<!": "a web page: the download was answered with HTML",
    b"<h": "a web page: the download was answered with HTML",
}


def require_weights(folder: Path, name: str = MODEL) -> None:
    """Raise if a file of weights is missing from a local checkpoint, or is not whole.

    Args:
        name: MODEL, or ADAPTER for an adapter's weights.
    """
    faults = {file.name: fault for file in weight_files(folder, name) if (fault := fault_of(file))}
    if faults:
        pointers = any("git-LFS" in fault for fault in faults.values())
        raise UserError(
            f"the weights of {folder} are damaged",
            got="; ".join(f"{file} {fault}" for file, fault in list(faults.items())[:LISTED]),
            expected="whole safetensors files",
            fix=FETCH if pointers else COPY,
        )


def weight_files(folder: Path, name: str = MODEL) -> list[Path]:
    """Return the files of a checkpoint's weights: a single file, or the shards that the index names.

    Raises:
        UserError: there are none, the index is damaged, or shards that it names are missing.
    """
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise _no_weights(folder, name)
    places = read_json(index, COPY).get("weight_map")
    if not (isinstance(places, dict) and places and all(isinstance(place, str) for place in places.values())):
        raise UserError(
            f"{index} is damaged", got="no weight_map", expected="weight_map: {tensor: file}, as transformers saves it",
            fix=COPY,
        )  # fmt: skip
    shards = [folder / place for place in sorted(set(places.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of its {len(shards)} files of weights",
            got=f"no {', '.join(missing[:LISTED])}",
            expected=f"all files that {index.name} names",
            fix=COPY,
        )
    return shards


def fault_of(file: Path) -> str | None:
    """Return what is wrong with a safetensors file, from its size and header; None if nothing is."""
    size = file.stat().st_size
    if size == 0:
        return "has 0 bytes"
    with file.open("rb") as stream:
        start = stream.read(64)
    if is_pointer(start):
        return "is a git-LFS pointer, not the weights"
    length = struct.unpack("<Q", start[:8].ljust(8, b"\0"))[0]
    if start[8:9] != b"{":  # a header is JSON, whose length may begin like anything else
        known = (what for magic, what in NOT_SAFETENSORS.items() if start.lstrip().startswith(magic))
        return f"is {next(known, f'no safetensors file: {size:,} bytes without a header')}"
    if length > size - 8:
        return f"is truncated: {size:,} bytes, and the header alone takes {length:,}"
    try:
        header = read_header(file)
        described = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return f"has a damaged header ({error})"
    return None if described == size else f"has {size:,} bytes, and its header describes {described:,}"


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Return tensor name -> {dtype, shape, data_offsets} of a safetensors file.

    Raises:
        ValueError: the header is not JSON.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def stored_types(folder: Path) -> dict[str, str]:
    """Return tensor name -> type, such as BF16 or I8, of a local model's weights."""
    return {name: entry["dtype"] for file in weight_files(folder) for name, entry in read_header(file).items()}


def _no_weights(folder: Path, name: str) -> UserError:
    """Return the error for a folder without the weights that a library would load."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    other = [path for path in files if path.suffix in FORMATS]
    shards = [path.name for path in files if SHARD.search(path.name)]
    fix, got = COPY, ", ".join(path.name for path in files[:LISTED]) or "an empty folder"
    if shards:
        return UserError(
            f"{folder} has shards of weights without their index",
            got=", ".join(shards[:LISTED]),
            expected=f"{name}.safetensors.index.json",
            fix="copy that file too",
        )
    if other:
        kinds = ", ".join(sorted({FORMATS[path.suffix] for path in other}))
        got = ", ".join(path.name for path in other[:LISTED])
        fix = f"give the checkpoint in safetensors that the {kinds} file was made from"
    elif name == MODEL and (folder / f"{ADAPTER}.safetensors").is_file():
        fix = "for an adapter, copy its adapter_config.json too"
    return UserError(
        f"{folder} has no weights", got=got, expected=f"{name}.safetensors, or its shards with an index", fix=fix
    )
