"""The dataclasses of a stage, built from the keys of its recipe."""

import dataclasses
from typing import Any

from alignment.errors import UserError, gathered, raise_all
from alignment.pipeline.recipes.keys import keys_of
from alignment.pipeline.recipes.typecheck import describe_value

# What the libraries' dataclasses raise for values that they look up, open, parse or calculate with.
REFUSALS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, ImportError, OSError)


def build_configs(classes: tuple[type, ...], recipe: dict[str, Any], source: str) -> tuple[Any, ...]:
    """Build the dataclasses from the keys of one recipe; a key that several of them have is passed to each.

    All unknown keys and wrong types are reported together, then the errors of the dataclasses themselves.
    """
    raise_all(keys_of(classes).mistakes(recipe, source))
    errors: list[UserError] = []
    instances = []
    for cls in classes:
        with gathered(errors):
            instances.append(_build(cls, own_keys(cls, recipe), source))
    raise_all(errors)
    return tuple(instances)


def own_keys(cls: type, recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a recipe that a dataclass has."""
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    return {key: value for key, value in recipe.items() if key in names}


def _build(cls: type, keys: dict[str, Any], source: str) -> Any:
    """Build a dataclass; what transformers or TRL raise for a value of a right type is reported with its key."""
    try:
        return cls(**keys)
    except REFUSALS as refused:
        blamed = [key for key in keys if _builds(cls, {other: keys[other] for other in keys if other != key})]
        named = f"{' or '.join(blamed)} cannot take this value" if blamed else f"{cls.__name__} refuses these settings"
        raise UserError(
            f"{source}: {named}: {str(refused) or type(refused).__name__}",
            got=", ".join(f"{key}: {describe_value(keys[key])}" for key in blamed) or None,
        ) from refused


def _builds(cls: type, keys: dict[str, Any]) -> bool:
    try:
        cls(**keys)
    except (UserError, *REFUSALS):
        return False
    return True
