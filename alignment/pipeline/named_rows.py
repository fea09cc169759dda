"""What a recipe names as its rows (`dataset_name: STAGE`, also in `datasets`) and models, also in lists."""

from collections.abc import Iterator, Mapping
from typing import Any

from alignment.name_options import is_function

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


def named_models(recipe: Mapping[str, Any], kinds: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, name, kind) of every model in a recipe: `model_name_or_path`, ..., `judges.0`.

    Args:
        kinds: key that names a model, or a list of models and functions -> the kind needed.
    """
    for key, kind in kinds.items():
        value = recipe.get(key)
        if isinstance(value, str):
            yield key, value, kind
        for number, entry in enumerate(value if isinstance(value, list) else []):
            if isinstance(entry, str) and not is_function(entry):
                yield f"{key}.{number}", entry, kind


def is_rows_key(key: str) -> bool:
    """Whether a key of a stage's parents names rows, as `named_rows` yields it."""
    return key.endswith("dataset_name") or key.startswith(f"{ENTRY}.")


def with_places(recipe: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a recipe with other names of its rows and models: key -> place."""
    placed = dict(recipe)
    for key, place in places.items():
        name, in_list, rest = key.partition(".")
        if not in_list:
            placed[key] = place
            continue
        entries = [*placed[name]]
        number = int(rest.partition(".")[0])
        entries[number] = entries[number] | {"name": place} if isinstance(entries[number], dict) else place
        placed[name] = entries
    return placed
