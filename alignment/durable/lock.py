"""A lock that keeps two processes from writing to one folder."""

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from alignment.durable.unwritable import errors_of_place, make_folder
from alignment.errors import UserError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock. The kernel frees the lock when the process ends, however it ends: it is never stale.

    Raises:
        UserError: another process holds the lock; the error names the process and the time.
    """
    make_folder(folder)
    with errors_of_place(folder):
        opened = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another align process is writing to {folder}",
                got=holder(file.name),
                fix="wait until it ends, or choose another --output_dir",
            ) from error
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process holds a folder's lock.

    A shared lock is tried for an instant and given back; ask only if a process should be there, since one that starts
    in this instant would find the lock taken.
    """
    try:
        opened = (folder / LOCK_FILE).open(encoding="utf-8")
    except OSError:  # nobody has ever locked the folder
        return False
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def holder(path: str) -> str:
    """Describe the process that holds a lock, from what it wrote into the file."""
    try:
        owner = json.loads(Path(path).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError):  # the process has just taken the lock
        return "a process that has just started"
