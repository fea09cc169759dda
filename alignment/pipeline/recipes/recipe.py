"""Recipe files: YAML whose keys are the fields of a stage's dataclasses, with `extends` and `${input}`."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment.errors import UserError, nearest
from alignment.pipeline.recipes.packaged_recipes import find_recipe, nearest_file, short_name
from alignment.pipeline.recipes.typecheck import describe_value
from alignment.yaml_text import parse_yaml

PLACEHOLDER = re.compile(r"\$\{([A-Za-z_]\w*)\}")
RECIPE_DIR = "recipe_dir"  # ${recipe_dir} is the folder of the recipe file that it is written in


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = nearest(path.name, [file.name for file in path.parent.glob("*.yaml") if file.is_file()])
        similar = short_name(path.parent / near[0]) if near else nearest_file(path)
        meant = f"did you mean {shlex.quote(similar)}?" if similar else "check the path"
        raise UserError(f"no recipe at {path}", expected="a YAML file", fix=meant) from error
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
    """A copy of `base` updated with `changes`; nested mappings are merged the same way."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_recipe(path: str | Path, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a recipe file over the recipe that it `extends`, and fill its `${name}`s if `inputs` are given."""
    recipe = _read_extending(Path(path), ())
    return recipe if inputs is None else fill_inputs(recipe, inputs, str(path))


def _read_extending(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in [child.resolve() for child in children]:
        chain = " -> ".join(map(str, [*children, path]))
        raise UserError(f"{children[0]} extends itself", got=chain, fix="remove one `extends` from the cycle")
    recipe = _fill(read_mapping(path), {RECIPE_DIR: _from_here(path.parent)})
    if "extends" not in recipe:
        return recipe
    base = recipe.pop("extends")
    if not isinstance(base, str):
        raise UserError(
            f"{path}: `extends` takes the path of one recipe",
            got=describe_value(base),
            expected="a path relative to this file, or a packaged recipe: tiny/sft.yaml",
        )
    return merge(_read_extending(find_recipe(base, path.parent), (*children, path)), recipe)


def _from_here(folder: Path) -> str:
    """A folder inside the working directory as a relative path, however it was named; any other as it is.

    A recipe by its absolute path, or by the name of a packaged recipe, is the same recipe: its stages are up to date.
    """
    absolute, here = os.path.abspath(folder), os.getcwd()
    return os.path.relpath(absolute, here) if Path(absolute).is_relative_to(here) else str(folder)


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) for every text inside a recipe."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from strings(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, key)


def placeholders(recipe: dict[str, Any]) -> set[str]:
    """The names of the inputs that a recipe uses."""
    return {name for _, text in strings(recipe) for name in PLACEHOLDER.findall(text)}


def fill_inputs(recipe: dict[str, Any], inputs: dict[str, Any], source: str) -> dict[str, Any]:
    """A copy of a recipe with each `${name}` replaced; a value that is `${name}` alone keeps the input's type."""
    missing = sorted(placeholders(recipe) - set(inputs))
    if missing:
        raise UserError(f"{source} uses inputs that were not given", expected=", ".join(missing))
    return _fill(recipe, inputs)


def _fill(value: Any, inputs: dict[str, Any]) -> Any:
    """A copy of a value with each `${name}` of the inputs replaced, and others left as they are."""
    if isinstance(value, dict):
        return {key: _fill(item, inputs) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, inputs) for item in value]
    if not isinstance(value, str):
        return value
    whole = PLACEHOLDER.fullmatch(value)
    if whole and whole[1] in inputs:
        return inputs[whole[1]]
    return PLACEHOLDER.sub(lambda found: str(inputs.get(found[1], found[0])), value)
