"""A file of votes, one JSON object per line, that is only ever appended to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.durable.unwritable import errors_of_place, require_writable_file
from alignment.errors import UserError

TORN = ".torn"  # suffix of the file that receives a torn line
LONGEST_LINE = 2**24  # bytes; the server's limits keep votes below


class VotesFile:
    """Appends votes, each with a single write and a sync, so that a line is there whole before a vote is confirmed.

    Several servers may append to one file: each holds its lock meanwhile.

    Args:
        path: the file; it is made by the first vote.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def prepare(self) -> list[str]:
        """Examine the file before the first vote, and repair a torn last line; return what is worth saying.

        Raises:
            UserError: the file cannot be written, or holds something else than votes.
        """
        require_writable_file(self.path)
        with errors_of_place(self.path):
            if not self.path.exists():
                return [f"votes: a new file {self.path}"]
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
            with self._opened() as file:
                self._require_votes(file)
                repaired = self._repaired(file)
            count = sum(1 for line in self.path.open("rb") if line.strip())
        return [*repaired, f"votes: {count} in {self.path}; new ones are appended"]

    def append(self, row: dict[str, Any]) -> None:
        """Add a vote.

        Raises:
            OSError: the vote could not be stored; the file is as before.
        """
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        new = not self.path.exists()
        with self._opened() as file:
            self._repaired(file)
            size = os.fstat(file).st_size
            try:
                if os.write(file, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file)
            except OSError:
                os.ftruncate(file, size)
                raise
        if new:
            _sync_folder(self.path.parent)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    def _require_votes(self, file: int) -> None:
        """Raise if the first line is complete and no vote: new lines would spoil another file."""
        first, newline, _ = os.pread(file, LONGEST_LINE, 0).partition(b"\n")
        if newline and not _is_vote(first):
            raise UserError(
                f"{self.path} is not a file of votes",
                got=first[:80].decode(errors="replace"),
                expected="a new file, or one that `align chat --web` wrote",
                fix="another name: --votes FILE",
            )

    def _repaired(self, file: int) -> list[str]:
        """Complete or move away a last line that a killed process left without its end; return what was done."""
        size = os.fstat(file).st_size
        start = max(0, size - LONGEST_LINE)
        before, newline, line = os.pread(file, LONGEST_LINE, start).rpartition(b"\n")
        if not line:
            return []
        if _is_vote(line):
            os.write(file, b"\n")
            os.fsync(file)
            return [f"{self.path}: the last line had no end; completed"]
        torn = Path(f"{self.path}{TORN}")
        with torn.open("ab") as kept:
            kept.write(line + b"\n")
            kept.flush()
            os.fsync(kept.fileno())
        os.ftruncate(file, start + len(before) + len(newline))
        os.fsync(file)
        return [f"{self.path}: an incomplete last line ({len(line)} bytes) was moved to {torn}"]


def _is_vote(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and "vote" in row and "replies" in row


def _sync_folder(folder: Path) -> None:
    """Make the entry of a new file durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
