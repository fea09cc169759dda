"""manifest.json: size and SHA-256 of every file of a checkpoint. With it a folder is complete; without, it is not.

What may be written about a checkpoint afterwards (`NOT_COVERED`: its cards, hidden files) stands in no manifest and may
be added, edited or removed. Any other file that a library would load is damage where the manifest does not name it.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from alignment.durable.files import sync_tree, write_json
from alignment.errors import UserError

MANIFEST = "manifest.json"
VERSION = 1
NOT_COVERED = ("README.md", "reward_card.json", "reward_card.md", MANIFEST)
# Suffixes of what transformers, PEFT or torch would load: weights, configs, tokenizers, templates, code.
LOADED = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npz", ".gguf"}
LOADED |= {".json", ".jinja", ".model", ".txt", ".py"}


def write_manifest(folder: str | Path, *, sync: bool = True) -> None:
    """Write the manifest of a folder's files, last of all; with `sync` the files are on the disk before it."""
    folder = Path(folder)
    files = {name: {"size": path.stat().st_size, "sha256": sha256(path)} for name, path in covered(folder)}
    if sync:
        sync_tree(folder)
    write_json(folder / MANIFEST, {"version": VERSION, "files": files}, sync=sync)


def damage(folder: str | Path) -> list[str]:
    """What is wrong with a folder by its manifest, a sentence each; nothing where it is complete and intact."""
    folder = Path(folder)
    try:
        files = read_manifest(folder)
    except FileNotFoundError:
        return [f"{MANIFEST} is missing: the folder was not written to its end"]
    except ValueError as error:
        return [f"{MANIFEST} is damaged: {error}"]
    found = [sentence for name, entry in files.items() for sentence in damage_of_file(folder, name, entry)]
    extra = [name for name, path in covered(folder) if name not in files and path.suffix in LOADED]
    return found + [f"{name} does not belong there: {MANIFEST} has no such file" for name in extra]


def damage_of_file(folder: Path, name: str, entry: dict) -> list[str]:
    path = folder / name
    if not path.is_file():
        return [f"{name} is missing"]
    size = path.stat().st_size
    if size != entry["size"]:
        return [f"{name} has {size:,} bytes where {entry['size']:,} were written"]
    if sha256(path) != entry["sha256"]:
        return [f"{name} does not hold what was written (its SHA-256 differs)"]
    return []


def require_intact(folder: str | Path, mend: str | None = None) -> None:
    """Raise a UserError that names all that is wrong with a folder by its manifest."""
    found = damage(folder)
    if found:
        raise UserError(
            f"{folder} is damaged",
            got="; ".join(found),
            needed=f"the files as {MANIFEST} lists them",
            mend=mend or "restore them from a copy, or make the checkpoint anew",
        )


def read_manifest(folder: str | Path) -> dict[str, dict]:
    """File name -> {size, sha256}, as recorded.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: it is none that this module wrote.
    """
    content = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("version") != VERSION or not isinstance(content.get("files"), dict):
        raise ValueError(f"it is no manifest of version {VERSION}")
    for name, entry in content["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{name!r} lies outside the folder")
        if not (isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)):
            raise ValueError(f"the entry of {name!r} has no size and SHA-256")
    return content["files"]


def covered(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, path) of every file that a manifest answers for, by name."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and str(name) not in NOT_COVERED:
            yield name.as_posix(), path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
