"""Recipe keys that differ between two runs of a stage."""

from typing import Any

UNSET = "(unset)"


def flattened(recipe: dict, prefix: str = "") -> dict[str, Any]:
    """A recipe with dotted keys: {model_config: {hidden_size: 8}} is {model_config.hidden_size: 8}."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changed_keys(a: dict, b: dict) -> list[dict]:
    """[{key, a, b}] of the keys whose values differ; a key that one side does not set is `(unset)` there."""
    first, second = flattened(a), flattened(b)
    return [
        {"key": key, "a": first.get(key, UNSET), "b": second.get(key, UNSET)}
        for key in dict.fromkeys([*first, *second])
        if first.get(key, UNSET) != second.get(key, UNSET)
    ]
