"""Files and folders written beside their place, flushed to the disk, then renamed: whole or not there at all."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment.errors import UserError
from alignment.text import size_text

PARTIAL = ".partial"  # what is being written
REPLACED = ".replaced"  # a folder that is about to be replaced, for the moment between two renames
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def new_file(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a file beside PATH to write to; it becomes PATH once it is on the disk, and is removed where that fails.

    Its name holds the process, since two may write the same file (several processes of one run, two reports).

    Args:
        sync: wait until the file is on the disk; without, a power cut may leave an empty one.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        if sync:
            sync_file(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def write_text(path: str | Path, text: str, *, sync: bool = True) -> None:
    with new_file(path, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, sync: bool = True) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n", sync=sync)


@contextlib.contextmanager
def new_folder(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield PATH.partial, made anew, to fill; it becomes PATH once all of it is written.

    What a killed run left of PATH.partial is removed. A PATH that exists is moved aside, and removed only after the new
    one stands in its place; where a run was killed between these two renames, the old one comes back here.

    Args:
        sync: wait until the files are on the disk; without, a power cut may leave an incomplete folder.
    """
    path = Path(path)
    partial, replaced = path.with_name(path.name + PARTIAL), path.with_name(path.name + REPLACED)
    if replaced.exists():
        shutil.rmtree(replaced) if path.exists() else replaced.rename(path)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
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
    """Wait until a folder's names are on the disk: a rename alone may be forgotten in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until all files and names below a folder are on the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


@contextlib.contextmanager
def disk_full_explained(what: str, where: str | Path, expected: int | None = None) -> Iterator[None]:
    """A full disk or quota as a mistake that the user can mend.

    Args:
        what: what is written, such as `the checkpoint of sft`.
        where: the file or folder that is written; it need not exist.
        needed: bytes that it takes, where that is known.
    """
    try:
        yield
    except Exception as error:
        place = nearest_folder(Path(where))
        if not is_disk_full(error, place):
            raise
        free = shutil.disk_usage(place).free
        raise UserError(
            f"no space left on the disk for {what}; what was written before stands whole and is not replaced",
            got=f"{size_text(free)} free at {place} ({error})",
            expected=None if expected is None else f"{size_text(expected)} free",
            fix=f"free space on the disk of {place} (RUN_DIR/previous and older trainer/checkpoint-N may be deleted), "
            "then give the same command again: it goes on from what stands",
        ) from error


def is_disk_full(error: Exception, place: Path) -> bool:
    """Whether an error says that a disk or quota is full, in the words of Python, Rust (safetensors) or torch.save."""
    if isinstance(error, UserError):
        return False  # explained already
    if isinstance(error, OSError):
        return error.errno in FULL
    if any(f"(os error {number})" in str(error) for number in FULL):
        return True
    # torch's writer has no errno; it complains that less was written than it meant to.
    return "inline_container" in str(error) and shutil.disk_usage(place).free < 2**20


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
