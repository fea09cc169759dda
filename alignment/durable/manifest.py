"""manifest.json: size and SHA-256 of every file of a checkpoint. A folder without a manifest is incomplete.

The manifest covers the checkpoint itself, and not the documents about it: the cards in `NOT_COVERED` and hidden files
may be added, edited and removed later. Any other file that a library would load is damage if the manifest does not list
it.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from alignment.durable.atomic import disk_full_explained, new_folder, sync_tree, write_json
from alignment.errors import UserError

MANIFEST = "manifest.json"
LINEAGE = "lineage.json"
VERSION = 1
NOT_COVERED = ("README.md", "reward_card.json", "reward_card.md", MANIFEST)
# Suffixes of files that transformers, PEFT or torch would load: weights, configs, tokenizers, templates, code.
LOADED = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npz", ".gguf"}
LOADED |= {".json", ".jinja", ".model", ".txt", ".py"}
WEIGHTS = ".safetensors"
# Files that may differ between checkpoints of the same model: lineage, and Trainer's pickled arguments.
NOT_MODEL = (LINEAGE, "training_args.bin")
FIX_DAMAGE = (
    "restore the files from a copy, or remove the stage's folder and run the stage again; if you changed the files on "
    "purpose, remove manifest.json and lineage.json, and the folder counts as a foreign checkpoint"
)


@contextlib.contextmanager
def new_checkpoint(path: str | Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes the checkpoint, with its manifest, once all files are on the disk."""
    with disk_full_explained(f"the checkpoint {path}", path), new_folder(path) as folder:
        yield folder
        write_manifest(folder, sync=False)  # new_folder waits for the disk


def write_manifest(folder: str | Path, *, sync: bool = True) -> None:
    """Write the manifest of a folder's files. With `sync`, the files are on the disk before the manifest is."""
    folder = Path(folder)
    files = {name: entry_of(path) for name, path in covered(folder)}
    if sync:
        sync_tree(folder)
    write_json(folder / MANIFEST, {"version": VERSION, "files": files}, sync=sync)


def cover(folder: str | Path, name: str) -> None:
    """Add a file to the manifest that was written after it, or update the file's entry."""
    folder = Path(folder)
    files = read_manifest(folder) | {name: entry_of(folder / name)}
    write_json(folder / MANIFEST, {"version": VERSION, "files": dict(sorted(files.items()))})


def damage(folder: str | Path, *, weights: bool = True) -> list[str]:
    """Describe the differences between a folder and its manifest; an empty list if it is complete and intact.

    Args:
        weights: hash all weights; otherwise, to save time, only weights modified since the manifest was written.
    """
    folder = Path(folder)
    try:
        files = read_manifest(folder)
    except FileNotFoundError:
        return [f"{MANIFEST} is missing: the folder was not written completely"]
    except ValueError as error:
        return [f"{MANIFEST} is damaged: {error}"]
    written = (folder / MANIFEST).stat().st_mtime_ns
    found = []
    for name, entry in files.items():
        path = folder / name
        contents = weights or not name.endswith(WEIGHTS) or (path.exists() and path.stat().st_mtime_ns > written)
        found += damage_of_file(path, name, entry, contents)
    extra = [name for name, path in covered(folder) if name not in files and path.suffix in LOADED]
    return found + [f"{name} does not belong to the checkpoint: {MANIFEST} does not list it" for name in extra]


def damage_of_file(path: Path, name: str, entry: dict, contents: bool = True) -> list[str]:
    """Describe the difference between a file and its entry in the manifest; with `contents`, the file is hashed."""
    if not path.is_file():
        return [f"{name} is missing"]
    size = path.stat().st_size
    if size != entry["size"]:
        return [f"{name} has {size:,} bytes, but {entry['size']:,} were written"]
    if contents and sha256(path) != entry["sha256"]:
        return [f"{name} has been changed (its SHA-256 differs)"]
    return []


def require_intact(folder: str | Path, fix: str | None = None, *, weights: bool = True) -> None:
    """Raise a UserError that lists all differences between a folder and its manifest."""
    found = damage(folder, weights=weights)
    if found:
        raise UserError(
            f"{folder} is damaged",
            got="; ".join(found),
            expected=f"the files as {MANIFEST} lists them",
            fix=fix or FIX_DAMAGE,
        )


def read_manifest(folder: str | Path) -> dict[str, dict]:
    """Return file name -> {size, sha256}, as recorded.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: the file is not a manifest that this module wrote.
    """
    content = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("version") != VERSION or not isinstance(content.get("files"), dict):
        raise ValueError(f"not a manifest of version {VERSION}")
    for name, entry in content["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{name!r} lies outside the folder")
        if not (isinstance(entry, dict) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)):
            raise ValueError(f"the entry of {name!r} has no size and SHA-256")
    return content["files"]


def covered(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of every file that a manifest covers, sorted by name."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and str(name) not in NOT_COVERED:
            yield name.as_posix(), path


def digests(folder: str | Path) -> dict[str, str]:
    """Return file name -> SHA-256 of all covered files: from the manifest, or computed if there is none."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return {name: sha256(path) for name, path in covered(folder)}
    try:
        return {name: entry["sha256"] for name, entry in read_manifest(folder).items()}
    except ValueError as error:
        raise UserError(f"{folder} is damaged", got=f"{MANIFEST} is damaged: {error}", fix=FIX_DAMAGE) from error


def digest_checkpoint(folder: str | Path) -> str:
    """Return a digest of a checkpoint's weights, configs and tokenizer; equal for equal models."""
    files = [[name, digest] for name, digest in sorted(digests(folder).items()) if name not in NOT_MODEL]
    return hashlib.sha256(json.dumps(files, separators=(",", ":")).encode()).hexdigest()


def entry_of(path: Path) -> dict:
    """Return a file's entry in a manifest."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
