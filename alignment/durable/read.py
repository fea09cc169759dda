"""Reading what was written: damage is a mistake to mend, never a traceback or a wrong value."""

import json
from pathlib import Path
from typing import Any

from alignment.errors import UserError

AGAIN = "restore it from a copy, or run what wrote it again"


def read_json(path: str | Path, fix: str = AGAIN) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it holds something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise UserError(f"{path} is damaged", got=error, expected="JSON", fix=fix) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged", got=f"JSON of type {type(value).__name__}", expected="an object", fix=fix)
    return value


def read_json_lines(path: str | Path, fix: str = AGAIN) -> list[dict[str, Any]]:
    """The objects of a log that is written a line at a time; a last line that was cut off is left out.

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
