"""Grouping of a stream's items into lists that fit in memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def grouped(
    items: Iterable[Item], size_of: Callable[[Item], int], limit: int, most: int | None = None
) -> Iterator[list[Item]]:
    """Yield lists of items with a total size of at least `limit`, or of `most` items; the last may be smaller."""
    group: list[Item] = []
    size = 0
    for item in items:
        group.append(item)
        size += size_of(item)
        if size >= limit or len(group) == most:
            yield group
            group, size = [], 0
    if group:
        yield group
