"""Places that cannot be written: read-only mounts, files where a folder should be, names that are too long.

Errors of the operating system about a path are mistakes of the user's, not defects, and become a UserError that names
the place. `make_folder` and the writers of `atomic.py` raise it themselves; `explain` serves the command line, for
whatever a library writes (caches, models).
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alignment.errors import UserError

# EEXIST: a file is where a folder should be.
UNWRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)
FULL = (errno.ENOSPC, errno.EDQUOT)
FIX = "choose another folder, or make this one writable"


def make_folder(path: str | Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        UserError: the folder cannot be made.
    """
    with errors_of_place(path):  # of any number: /proc says that there is no such file
        Path(path).mkdir(parents=True, exist_ok=True)


def require_writable(folder: str | Path) -> None:
    """Raise if a folder cannot be made or written to; nothing is left behind.

    A file is made and removed, because permission bits do not decide (root, read-only mounts, quotas).
    """
    folder = Path(folder)
    with errors_of_place(folder):
        # By descending path, so that each folder is empty when its turn comes.
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
    make_folder(folder)
    try:
        with errors_of_place(folder), tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for place in missing:
            with contextlib.suppress(OSError):
                place.rmdir()


def require_writable_file(path: str | Path) -> None:
    """Raise if a file cannot be written: its folder cannot, its name is too long, or it is a folder."""
    path = Path(path)
    with errors_of_place(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.exists()  # raises for a name that is too long
    require_writable(path.parent)


@contextlib.contextmanager
def errors_of_place(path: str | Path) -> Iterator[None]:
    """Turn every error of the operating system into a UserError about a path; only for calls that concern the path.

    Those of a full disk pass: `atomic.disk_full_explained` says how much space there is.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        raise cannot_write(path, error) from error
    except ValueError as error:  # a null byte
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def unwritable_explained(path: Path, partial: Path) -> Iterator[None]:
    """Turn errors about a path that is being written, under the name `partial`, into a UserError; others pass."""
    try:
        yield
    except OSError as error:
        named = path_of(error)
        related = named is not None and (named.is_relative_to(partial) or partial.is_relative_to(named))
        if not related or error.errno not in UNWRITABLE:
            raise
        raise cannot_write(path, error) from error


def path_of(error: OSError) -> Path | None:
    """The path that an error of the operating system is about; None if it names none, or a descriptor."""
    named = error.filename
    return Path(os.fsdecode(named)) if isinstance(named, (str, bytes, os.PathLike)) else None


def cannot_write(path: str | Path, error: Exception) -> UserError:
    """The error for a place that cannot be written."""
    return UserError(f"cannot write {path}", got=error, expected="a place that can be written", fix=FIX)


def explain(error: BaseException | None) -> UserError | None:
    """The UserError for an error that the operating system gave about a path, or that one caused; otherwise None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (*UNWRITABLE, *FULL):
            named = path_of(error)
            if named is not None or error.errno in FULL:
                return UserError(
                    f"cannot write or read {named}" if named else "a disk is full",
                    got=error,
                    fix="check the path, its permissions and the space on its disk; caches are in HF_HOME and "
                    "HF_DATASETS_CACHE",
                )
        error = error.__cause__
    return None
