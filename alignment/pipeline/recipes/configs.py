"""The dataclasses of a stage, built from the keys of its recipe."""

import dataclasses
from typing import Any, get_type_hints

from alignment.errors import UserError, gathered, raise_all, suggestion
from alignment.pipeline.recipes.typecheck import describe, describe_value, fits
from alignment.yaml_text import write_yaml

# What the libraries' dataclasses raise for values that they look up, open, parse or calculate with.
REFUSALS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, ImportError, OSError)


def build_configs(classes: tuple[type, ...], recipe: dict[str, Any], source: str) -> tuple[Any, ...]:
    """Build the dataclasses from the keys of one recipe; a key that several of them have is passed to each.

    All unknown keys and wrong types are reported together, then the errors of the dataclasses themselves.
    """
    annotations = [_annotations(cls) for cls in classes]
    valid = {key for hints in annotations for key in hints}
    renamed = {key: f"what it did: {new}" for cls in classes for key, new in getattr(cls, "RENAMED", {}).items()}
    errors = [
        UserError(
            f"{source}: unknown key {key!r}",
            got=f"{key}: {value}",
            fix=renamed.get(key) or suggestion(key, sorted(valid)),
        )
        for key, value in recipe.items()
        if key not in valid
    ]
    for cls, hints in zip(classes, annotations, strict=True):
        for field in dataclasses.fields(cls):
            if field.name in recipe and field.init and not fits(recipe[field.name], hints[field.name]):
                errors.append(_wrong_type(source, field, recipe[field.name], hints[field.name]))
            if field.name not in recipe and _required(field):
                errors.append(
                    UserError(f"{source}: the key {field.name!r} is missing", expected=describe(hints[field.name]))
                )
    raise_all(_distinct(errors))

    instances = []
    for cls, hints in zip(classes, annotations, strict=True):
        with gathered(errors):
            instances.append(_build(cls, {key: value for key, value in recipe.items() if key in hints}, source))
    raise_all(errors)
    return tuple(instances)


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


def _annotations(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _required(field: dataclasses.Field) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _wrong_type(source: str, field: dataclasses.Field, value: Any, hint: Any) -> UserError:
    example: Any = field.default if isinstance(field.default, str | int | float) else None
    if fits([value], hint):
        example = [value]
    return UserError(
        f"{source}: {field.name} cannot take this value",
        got=describe_value(value),
        expected=describe(hint),
        fix=None if example is None else f"for example `{field.name}: {write_yaml(example)}`",
    )


def _distinct(errors: list[UserError]) -> list[UserError]:
    """Errors with distinct problems: a key that two dataclasses have is reported once."""
    return list({error.problem: error for error in reversed(errors)}.values())[::-1]
