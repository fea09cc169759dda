"""Atomic writes: files and folders are written under a temporary name, flushed to the disk, then renamed."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment.durable.unwritable import FULL, errors_of_place, unwritable_explained
from alignment.errors import UserError
from alignment.text import size_text

PARTIAL = ".partial"  # a file or folder that is being written
REPLACED = ".replaced"  # a folder that is about to be replaced, between the two renames


@contextlib.contextmanager
def new_file(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to, which is renamed to PATH once it is on the disk, or removed on an error.

    The temporary name includes the process id, since two processes may write the same file.

    Args:
        sync: wait until the file is on the disk; otherwise a power cut may leave an empty file.

    Raises:
        UserError: the place cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with unwritable_explained(path, partial):
            yield partial
            if sync:
                sync_file(partial)
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error to see is the first
            partial.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def write_text(path: str | Path, text: str, *, sync: bool = True) -> None:
    """Write a text file atomically, in UTF-8."""
    with new_file(path, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, sync: bool = True) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n", sync=sync)


@contextlib.contextmanager
def new_folder(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield an empty folder PATH.partial to fill, which is renamed to PATH once it is complete.

    A PATH.partial that a killed run left is removed. An existing PATH is moved aside, and removed after the new folder
    has its name; if a run was killed between these two renames, the next call restores the old folder.

    Args:
        sync: wait until the files are on the disk; otherwise a power cut may leave an incomplete folder.
    """
    path = Path(path)
    partial, replaced = path.with_name(path.name + PARTIAL), path.with_name(path.name + REPLACED)
    with errors_of_place(path):
        if replaced.exists():
            shutil.rmtree(replaced) if path.exists() else replaced.rename(path)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
    try:
        with unwritable_explained(path, partial):
            yield partial
            if sync:
                sync_tree(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.exists():
        path.rename(replaced)
    partial.rename(path)
    if sync:
        sync_folder(path.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk: a power cut may undo a rename that was not synced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until all files and folders below a folder are on the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


@contextlib.contextmanager
def disk_full_explained(what: str, where: str | Path, expected: int | None = None) -> Iterator[None]:
    """Turn errors that a full disk or quota causes into a UserError.

    Args:
        what: what is being written, such as `the checkpoint of sft`.
        where: the file or folder being written; it need not exist.
        expected: bytes needed, if known.
    """
    try:
        yield
    except Exception as error:
        place = nearest_folder(Path(where))
        if not is_disk_full(error, place):
            raise
        free = shutil.disk_usage(place).free
        raise UserError(
            f"no space left on the disk for {what}; existing files are intact and were not replaced",
            got=f"{size_text(free)} free at {place} ({error})",
            expected=None if expected is None else f"{size_text(expected)} free",
            fix=f"free space on the disk of {place} (RUN_DIR/previous and older trainer/checkpoint-N may be deleted), "
            "then repeat the command to resume",
        ) from error


def is_disk_full(error: Exception, place: Path) -> bool:
    """Return whether an error of Python, Rust (safetensors) or torch.save means that a disk or quota is full."""
    if isinstance(error, UserError):
        return False  # explained already
    if isinstance(error, OSError):
        return error.errno in FULL
    if any(f"(os error {number})" in str(error) for number in FULL):
        return True
    # torch's writer sets no errno; it reports that fewer bytes were written than expected.
    return "inline_container" in str(error) and shutil.disk_usage(place).free < 2**20


def nearest_folder(path: Path) -> Path:
    """Return the path itself if it is a folder, or the nearest parent folder that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
