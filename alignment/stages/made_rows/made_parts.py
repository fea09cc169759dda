"""Rows that are made in parts: each part is a file that is complete or does not exist, so that a killed stage resumes.

A part's rows must follow from its input alone, not from the parts before it or from when it is made: then a stage that
was killed and resumed gives the same rows as one that was not.
"""

from __future__ import annotations

import datetime
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from alignment.durable.atomic import new_file
from alignment.durable.unwritable import make_folder
from alignment.errors import UserError

Item = TypeVar("Item")


@dataclass
class Part:
    """The rows made of some items, and what became of the items.

    Attributes:
        rows: JSON-like rows, in order.
        left_out: what was read or made and is no row, each with the reason as `left_out`.
        counts: what happened -> how often: `rows without a pair`, `requests`, ...
        tokens: tokens that were generated.
        seconds: time that the part took.
    """

    rows: list[dict[str, Any]]
    left_out: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0


class Parts:
    """The finished parts of a stage, in a folder.

    Args:
        folder: made if it does not exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        make_folder(folder)
        for partial in folder.glob("*.partial"):  # of a killed run
            partial.unlink()

    def place(self, number: int) -> Path:
        return self.folder / f"{number:06}.jsonl"

    def has(self, number: int) -> bool:
        return self.place(number).is_file()

    def write(self, number: int, part: Part) -> None:
        """Write a part: a line with its account, then a line for each row, and for each that is left out."""
        lengths = {"rows": len(part.rows), "left_out": len(part.left_out)}
        account = lengths | {"counts": dict(part.counts), "tokens": part.tokens, "seconds": part.seconds}
        with new_file(self.place(number)) as partial, partial.open("w", encoding="utf-8") as file:
            for value in (account, *part.rows, *part.left_out):
                file.write(json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n")

    def read(self, number: int) -> Part:
        """Read a part.

        Raises:
            UserError: the file was changed.
        """
        path = self.place(number)
        try:
            *lines, end = path.read_text(encoding="utf-8").split("\n")
            account, *rows = map(json.loads, lines)
            count, left_out = account.pop("rows"), account.pop("left_out")
            if end or len(rows) != count + left_out or not all(isinstance(row, dict) for row in rows):
                raise ValueError(f"not the {count} rows and {left_out} left out that were written")
            return Part(rows[:count], rows[count:], **account)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path} is damaged", got=error, fix="delete it: this part is made again") from error

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def plain(value: Any, name: str = "") -> Any:
    """A value of a data set as JSON has it: numbers that are not finite are None, dates are texts.

    Args:
        name: the column, for messages.

    Raises:
        UserError: the value is of another kind, such as an image's bytes.
    """
    if isinstance(value, Mapping):
        return {key: plain(one, name or str(key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, name) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise UserError(
        f"the column {name} cannot be kept in the rows of a data stage",
        got=type(value).__name__,
        expected="texts, numbers, dates, and lists and mappings of these",
        fix="remove the column from the data",
    )


def in_parts(items: Sequence[Item], size: int) -> Iterator[tuple[int, int, Sequence[Item]]]:
    """Yield (number of the part, position of its first item, its items)."""
    for number, start in enumerate(range(0, len(items), size)):
        yield number, start, items[start : start + size]


def totals(parts: Iterator[Part]) -> tuple[int, Counter[str], int]:
    """The number of rows, the counts and the tokens of all parts together."""
    counts: Counter[str] = Counter()
    rows = tokens = 0
    for part in parts:
        counts.update(part.counts)
        rows, tokens = rows + len(part.rows), tokens + part.tokens
    return rows, counts, tokens


Make = Callable[[int, Sequence[Any]], Part]  # (position of the first item, items) -> part
