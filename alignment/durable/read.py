"""Reading texts and JSON files that may be damaged: damage is a UserError, never a traceback or a wrong value."""

import json
from pathlib import Path
from typing import Any

from alignment.errors import UserError

AGAIN = "restore it from a copy, or repeat the command that wrote it"
COPY_AGAIN = "copy or download the file again"
# git-lfs' own format: github.com/git-lfs/git-lfs/blob/main/docs/spec.md
POINTER = b"version https://git-lfs"
FETCH = "fetch the files themselves: `git lfs pull` where the repository was cloned, or download them again"


def is_pointer(content: bytes) -> bool:
    """Return whether a file begins as a git-LFS pointer does, which stands for a file that was not fetched."""
    return content.startswith(POINTER)


def read_text(path: str | Path, what: str = "") -> str:
    """Return a text in UTF-8, without a byte order mark.

    Args:
        what: names the file in errors; by default its path.

    Raises:
        UserError: the file is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what or path} is not a text in UTF-8", got=str(error), fix="convert it to UTF-8") from error


def read_json(path: str | Path, fix: str = AGAIN) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is not a JSON object.
    """
    content = Path(path).read_bytes()
    if is_pointer(content):
        raise UserError(f"{path} is a git-LFS pointer, not the file", expected="JSON", fix=FETCH)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8
        raise UserError(f"{path} is damaged", got=error, expected="JSON", fix=fix) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged", got=f"JSON of type {type(value).__name__}", expected="an object", fix=fix)
    return value


def read_json_lines(path: str | Path, fix: str = AGAIN) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines log, without a truncated last line.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: a line before the last is damaged.
    """
    rows, lines = [], Path(path).read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                break  # the writer was killed, or is writing
            raise UserError(f"{path} is damaged in line {number}", got=error, expected="JSON", fix=fix) from error
        if not isinstance(row, dict):
            raise UserError(f"{path} is damaged in line {number}", expected="a JSON object", fix=fix)
        rows.append(row)
    return rows
