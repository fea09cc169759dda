"""Rows that are made in parts: each part is a file that is complete or does not exist, so that a killed stage goes on.

A part's rows must follow from its input alone, not from the parts before it or from when it is made: then a stage that
was killed and resumed gives the same rows as one that was not.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
        counts: what happened -> how often: `rows without a pair`, `requests`, ...
        tokens: tokens that were generated.
        seconds: time that the part took.
    """

    rows: list[dict[str, Any]]
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
        """Write a part: a line with its account, then a line for each row."""
        account = {"counts": dict(part.counts), "tokens": part.tokens, "seconds": part.seconds}
        with new_file(self.place(number)) as partial, partial.open("w", encoding="utf-8") as file:
            for value in (account, *part.rows):
                file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")

    def read(self, number: int) -> Part:
        """Read a part.

        Raises:
            UserError: the file was changed.
        """
        path = self.place(number)
        try:
            account, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            return Part(rows, **account)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged", got=error, fix="delete it: this part is made again") from error

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def in_parts(items: Sequence[Item], size: int) -> Iterator[tuple[int, int, Sequence[Item]]]:
    """Yield (number of the part, position of its first item, its items)."""
    for number, start in enumerate(range(0, len(items), size)):
        yield number, start, items[start : start + size]


def totals(parts: Iterator[Part]) -> tuple[Counter[str], int, float]:
    """The counts, tokens and seconds of all parts together."""
    counts: Counter[str] = Counter()
    tokens, seconds = 0, 0.0
    for part in parts:
        counts.update(part.counts)
        tokens, seconds = tokens + part.tokens, seconds + part.seconds
    return counts, tokens, seconds


Make = Callable[[int, Sequence[Any]], Part]  # (position of the first item, items) -> part
