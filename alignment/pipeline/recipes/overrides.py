"""Recipe keys from the command line: `--key value`, `--STAGE.key value`, `--evals.key value` and `--INPUT value`."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.errors import UserError, gathered, raise_all, suggestion
from alignment.pipeline.recipes.misspelt import UnknownKey
from alignment.pipeline.recipes.recipe import placeholders
from alignment.pipeline.recipes.typecheck import describe_value
from alignment.yaml_text import parse_yaml

# Mappings whose keys are names in the user's data and suites, which may have hyphens.
NAMED_BY_DATA = {"columns", "headline", "start_tokens_as"}


def key_of_option(option: str) -> str:
    """The recipe key of an option without its `--`: `sft.learning-rate` is `sft.learning_rate`."""
    parts: list[str] = []
    for part in option.split("."):
        parts.append(part if NAMED_BY_DATA & {*parts} else part.replace("-", "_"))
    return ".".join(parts)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`["--key", "value", "--a.b=1", "--flag"]` as {dotted key: value}; values are YAML, a key alone means true.

    A key may be written with hyphens; of a key that is given twice, in whichever spelling, the last value counts.
    """
    overrides, rest = {}, list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or not token.strip("-"):
            raise UserError(
                "an argument without a key", got=token, expected="--key value", fix="write lists as '[a, b]'"
            )
        key, equals, text = token[2:].partition("=")
        if not equals:
            text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        overrides[key_of_option(key)] = parse_yaml(text, f"--{key}")
    return overrides


def apply_overrides(recipe: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe with `--key value` arguments applied; dotted keys nest."""
    changed = copy.deepcopy(recipe)
    for key, value in parse_overrides(arguments).items():
        set_key(changed, key, value)
    return changed


def set_key(recipe: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in place, and create the mappings on its path."""
    *path, last = key.split(".")
    target = recipe
    for name in path:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UserError(f"--{key} reaches into {name}, which is not a mapping", got=describe_value(target))
    target[last] = value


def route_overrides(
    overrides: Sequence[str], recipes: dict[str, dict[str, Any]], evals: dict[str, Any], declared: Sequence[str]
) -> dict[str, Any]:
    """Apply `--STAGE.key` and `--evals.key` in place, and return the inputs.

    Args:
        overrides: as given on the command line.
        recipes: stage -> recipe.
        declared: names of the inputs that pipeline.yaml declares.
    """
    inputs: dict[str, Any] = {}
    errors: list[UserError] = []
    stages = {key_of_option(name): name for name in recipes}  # a stage's name may have hyphens
    for key, value in parse_overrides(overrides).items():
        part, dot, rest = key.partition(".")
        with gathered(errors):
            if dot and part in stages:
                set_key(recipes[stages[part]], rest, value)
            elif dot and part == "evals":
                set_key(evals, rest, value)
            elif not dot and key in declared:
                inputs[key] = value
            else:
                raise _unknown_override(key, part, list(recipes), declared)
    raise_all(errors)
    return inputs


def _unknown_override(key: str, part: str, stages: list[str], inputs: Sequence[str]) -> UserError:
    expected = "--STAGE.key, where STAGE is " + ", ".join([*stages, "evals"])
    if inputs:
        expected += "; or an input: " + ", ".join(inputs)
    fix = f"put the stage's name before the key: --STAGE.{key}" if "." not in key else None
    if key in (*stages, "evals"):
        example = "evals.limit 100" if key == "evals" else f"{key}.learning_rate 1e-4"
        fix = f"name a key of it, too: --{key}.KEY VALUE, such as --{example}"
        fix += "" if key == "evals" else f"; --until {key} ends the run after that stage"
    fix = fix or suggestion(part, [*stages, "evals"])
    return UnknownKey(f"no stage or input for --{key}", key, inputs, got=part, expected=expected, fix=fix)


def check_inputs(
    recipes: dict[str, dict[str, Any]], inputs: dict[str, Any], declared: dict[str, str], source: Path, command: str
) -> None:
    """Raise for inputs that recipes use and that were not given, with their help and the command that sets them.

    Args:
        recipes: stage -> recipe.
        declared: input -> help, from pipeline.yaml.
        source: the path of pipeline.yaml.
        command: the command to complete in the fix.
    """
    used = {name: stage for stage, recipe in recipes.items() for name in placeholders(recipe)}
    undeclared = [name for name in used if name not in declared]
    if undeclared:
        raise UserError(
            f"the recipe of {used[undeclared[0]]} uses an input that {source} does not declare",
            got=f"${{{undeclared[0]}}}",
            expected=f"inputs: {{{undeclared[0]}: its help}}",
            fix=suggestion(undeclared[0], declared) if declared else None,
        )
    missing = [name for name in declared if name in used and name not in inputs]
    if missing:
        raise UserError(
            f"{source} needs inputs that were not given: {', '.join(missing)}",
            expected="\n          ".join(f"--{name}  {declared[name]}" for name in missing),
            fix=" ".join([command, *(f"--{name} {name.upper()}" for name in declared if name in used)]),
        )
