"""Stages that are named as the data of another stage: `dataset_name: STAGE`, also in `datasets` and other keys."""

from collections.abc import Iterator, Mapping
from typing import Any

ENTRY = "datasets"


def named_rows(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, name) of every source of rows in a recipe: `dataset_name`, `datasets.0.name`, ..."""
    for key, value in recipe.items():
        if key.endswith("dataset_name") and isinstance(value, str):
            yield key, value
    entries = recipe.get(ENTRY)
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield f"{ENTRY}.{number}.name", entry["name"]


def is_rows_key(key: str) -> bool:
    """Whether a key of a stage's parents names rows, as `named_rows` yields it."""
    return key.endswith("dataset_name") or key.startswith(f"{ENTRY}.")


def with_places(recipe: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a recipe with other names of its sources: key -> place."""
    placed = dict(recipe)
    for key, place in places.items():
        if not key.startswith(f"{ENTRY}."):
            placed[key] = place
            continue
        number = int(key.split(".")[1])
        placed[ENTRY] = [
            entry | {"name": place} if position == number else entry for position, entry in enumerate(placed[ENTRY])
        ]
    return placed
