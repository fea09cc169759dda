"""manifest.json: size and SHA-256 of every file of a checkpoint. With it a folder is complete; without, it is not.

One rule says what it answers for: all that makes the checkpoint, and nothing that is said about it. The cards in
`NOT_COVERED` and hidden files may be added, edited and removed afterwards; any other file that a library would load is
damage where the manifest does not name it.
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
# Suffixes of what transformers, PEFT or torch would load: weights, configs, tokenizers, templates, code.
LOADED = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".npz", ".gguf"}
LOADED |= {".json", ".jinja", ".model", ".txt", ".py"}
WEIGHTS = ".safetensors"
# Differ though the model is the same: where a checkpoint came from, and Trainer's pickled arguments.
NOT_MODEL = (LINEAGE, "training_args.bin")
MEND = (
    "restore the files from a copy, or remove the stage's folder and run it again; where the change was meant, remove "
    "manifest.json and lineage.json, and the folder counts as a foreign checkpoint"
)


@contextlib.contextmanager
def new_checkpoint(path: str | Path) -> Iterator[Path]:
    """A folder to fill; it becomes the checkpoint at once, with its manifest, when all of it is on the disk."""
    with disk_full_explained(f"the checkpoint {path}", path), new_folder(path) as folder:
        yield folder
        write_manifest(folder, sync=False)  # new_folder waits for the disk


def write_manifest(folder: str | Path, *, sync: bool = True) -> None:
    """Write the manifest of a folder's files, last of all; with `sync` the files are on the disk before it."""
    folder = Path(folder)
    files = {name: entry_of(path) for name, path in covered(folder)}
    if sync:
        sync_tree(folder)
    write_json(folder / MANIFEST, {"version": VERSION, "files": files}, sync=sync)


def cover(folder: str | Path, name: str) -> None:
    """Add a file that was written after the manifest, or put it there anew."""
    folder = Path(folder)
    files = read_manifest(folder) | {name: entry_of(folder / name)}
    write_json(folder / MANIFEST, {"version": VERSION, "files": dict(sorted(files.items()))})


def damage(folder: str | Path, *, weights: bool = True) -> list[str]:
    """What is wrong with a folder by its manifest, a sentence each; nothing where it is complete and intact.

    Args:
        weights: hash all weights; without, only those that were touched since the manifest was written, which takes
            no time.
    """
    folder = Path(folder)
    try:
        files = read_manifest(folder)
    except FileNotFoundError:
        return [f"{MANIFEST} is missing: the folder was not written to its end"]
    except ValueError as error:
        return [f"{MANIFEST} is damaged: {error}"]
    written = (folder / MANIFEST).stat().st_mtime_ns
    found = []
    for name, entry in files.items():
        path = folder / name
        contents = weights or not name.endswith(WEIGHTS) or (path.exists() and path.stat().st_mtime_ns > written)
        found += damage_of_file(path, name, entry, contents)
    extra = [name for name, path in covered(folder) if name not in files and path.suffix in LOADED]
    return found + [f"{name} does not belong there: {MANIFEST} has no such file" for name in extra]


def damage_of_file(path: Path, name: str, entry: dict, contents: bool = True) -> list[str]:
    if not path.is_file():
        return [f"{name} is missing"]
    size = path.stat().st_size
    if size != entry["size"]:
        return [f"{name} has {size:,} bytes where {entry['size']:,} were written"]
    if contents and sha256(path) != entry["sha256"]:
        return [f"{name} does not hold what was written (its SHA-256 differs)"]
    return []


def require_intact(folder: str | Path, fix: str | None = None, *, weights: bool = True) -> None:
    """Raise a UserError that names all that is wrong with a folder by its manifest."""
    found = damage(folder, weights=weights)
    if found:
        raise UserError(
            f"{folder} is damaged",
            got="; ".join(found),
            expected=f"the files as {MANIFEST} lists them",
            fix=fix or MEND,
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


def digests(folder: str | Path) -> dict[str, str]:
    """File name -> SHA-256 of what a manifest answers for: as it says, or hashed where there is none."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return {name: sha256(path) for name, path in covered(folder)}
    try:
        return {name: entry["sha256"] for name, entry in read_manifest(folder).items()}
    except ValueError as error:
        raise UserError(f"{folder} is damaged", got=f"{MANIFEST} is damaged: {error}", fix=MEND) from error


def digest_checkpoint(folder: str | Path) -> str:
    """The digest of a checkpoint's weights, configs and tokenizer: the same for the same model."""
    files = [[name, digest] for name, digest in sorted(digests(folder).items()) if name not in NOT_MODEL]
    return hashlib.sha256(json.dumps(files, separators=(",", ":")).encode()).hexdigest()


def entry_of(path: Path) -> dict:
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
