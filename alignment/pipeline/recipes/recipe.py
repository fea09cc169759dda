"""Recipes: YAML whose keys are the fields of a stage's dataclasses.

Reading (`extends`, `${input}`), overriding from the command line, and building the dataclasses, each with errors
that say what was got, what was needed and how to mend it.
"""

import contextlib
import copy
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from alignment.errors import UserError, UserErrors, nearest, raise_all, suggestion
from alignment.pipeline.recipes.typecheck import describe, describe_value, fits
from alignment.yaml_text import parse_yaml, write_yaml

PLACEHOLDER = re.compile(r"\$\{([A-Za-z_]\w*)\}")


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = nearest(path.name, [file.name for file in path.parent.glob("*.yaml")])
        fix = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise UserError(f"no recipe at {path}", expected="a YAML file", fix=fix) from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        kind = "a folder" if path.is_dir() else "a file that is not UTF-8 text"
        fix = "`align run` takes a folder, `align STAGE` a recipe file" if path.is_dir() else None
        raise UserError(f"{path} is not a recipe", got=kind, expected="a YAML file", fix=fix) from error
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is not a recipe", got=describe_value(value), expected="a mapping: lines of the form `key: value`"
        )
    return value


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `changes` in place of its own; mappings inside are merged likewise."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_recipe(path: str | Path, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """The keys of a recipe file, over those of the recipe it `extends`; given inputs fill its `${name}`s."""
    recipe = _read_extending(Path(path), ())
    return recipe if inputs is None else fill_inputs(recipe, inputs, str(path))


def _read_extending(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in [child.resolve() for child in children]:
        chain = " -> ".join(map(str, [*children, path]))
        raise UserError(f"{children[0]} extends itself", got=chain, fix="take one `extends` out of the circle")
    recipe = read_mapping(path)
    if "extends" not in recipe:
        return recipe
    base = recipe.pop("extends")
    if not isinstance(base, str):
        raise UserError(
            f"{path}: `extends` takes one recipe", got=describe_value(base), expected="a path, from this file"
        )
    return merge(_read_extending(path.parent / base, (*children, path)), recipe)


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text inside a recipe, with the dotted key it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from strings(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, key)


def placeholders(recipe: dict[str, Any]) -> set[str]:
    """The names of the inputs that a recipe asks for."""
    return {name for _, text in strings(recipe) for name in PLACEHOLDER.findall(text)}


def fill_inputs(recipe: dict[str, Any], inputs: dict[str, Any], source: str) -> dict[str, Any]:
    """A recipe with each `${name}` replaced; a value that is nothing but `${name}` keeps the input's type."""
    missing = sorted(placeholders(recipe) - set(inputs))
    if missing:
        raise UserError(f"{source} asks for inputs that were not given", got=None, expected=", ".join(missing))

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item) for item in value]
        if not isinstance(value, str):
            return value
        whole = PLACEHOLDER.fullmatch(value)
        return inputs[whole[1]] if whole else PLACEHOLDER.sub(lambda found: str(inputs[found[1]]), value)

    return fill(recipe)


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """`["--key", "value", "--a.b=1", "--flag"]` as {dotted key: value}; values are YAML, a key alone means true."""
    overrides, rest = {}, list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or not token.strip("-"):
            raise UserError(
                "an argument that belongs to no key", got=token, expected="--key value", fix="write lists as '[a, b]'"
            )
        key, equals, text = token[2:].partition("=")
        if not equals:
            text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        overrides[key] = parse_yaml(text, f"--{key}")
    return overrides


def apply_overrides(recipe: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    """A copy of a recipe with `--key value` arguments applied; dotted keys nest."""
    changed = copy.deepcopy(recipe)
    for key, value in parse_overrides(arguments).items():
        set_key(changed, key, value)
    return changed


def set_key(recipe: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in place, with the mappings on its way."""
    *path, last = key.split(".")
    target = recipe
    for name in path:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UserError(f"--{key} reaches into {name}, which is no mapping", got=describe_value(target))
    target[last] = value


@contextlib.contextmanager
def gathered(errors: list[UserError]) -> Iterator[None]:
    """Add a mistake found inside to `errors`, and go on."""
    try:
        yield
    except UserErrors as several:
        errors += several.errors
    except UserError as error:
        errors.append(error)


def build_configs(classes: tuple[type, ...], recipe: dict[str, Any], source: str) -> tuple[Any, ...]:
    """Instances of the dataclasses, from the keys of one recipe; a key that several of them have goes to each.

    All unknown keys and wrong types are reported together, and then what the dataclasses themselves refuse.
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
            try:
                instances.append(cls(**{key: value for key, value in recipe.items() if key in hints}))
            except (ValueError, ImportError) as refused:
                raise UserError(f"{source}: {cls.__name__} refuses these settings", got=refused) from refused
    raise_all(errors)
    return tuple(instances)


def _annotations(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _required(field: dataclasses.Field) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _wrong_type(source: str, field: dataclasses.Field, value: Any, hint: Any) -> UserError:
    example = field.default if isinstance(field.default, str | int | float) else None
    if fits([value], hint):
        example = [value]
    return UserError(
        f"{source}: {field.name} cannot take this value",
        got=describe_value(value),
        expected=describe(hint),
        fix=None if example is None else f"for example `{field.name}: {write_yaml(example)}`",
    )


def _distinct(errors: list[UserError]) -> list[UserError]:
    """One error for each problem: a key that two dataclasses have is wrong once."""
    return list({error.problem: error for error in reversed(errors)}.values())[::-1]
