"""pipeline.yaml: the stages of a recipe folder in order, its inputs, and what is evaluated."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.errors import UserError, raise_all, suggestion
from alignment.pipeline.recipes.packaged_recipes import (
    PIPELINE_FILE,
    find_recipe,
    name_here,
    nearest_folder,
    packaged,
    short_name,
)
from alignment.pipeline.recipes.recipe import RECIPE_DIR, read_mapping
from alignment.pipeline.recipes.report_keys import ReportKeys, report_keys
from alignment.pipeline.recipes.typecheck import describe_value, fits

KEYS = {"name": str, "seed": int, "inputs": dict[str, str], "stages": dict[str, str], "evals": dict[str, Any]}
FORMATS = ("plain", "chat")
BASE = "base"  # in evals.stages: the model outside the run directory that the first stage starts from
NO_BASE = "remove it: the first stage does not start from a model outside the pipeline"
STAGE_NAME = re.compile(r"[a-z][a-z0-9-]*[a-z0-9]")  # of the stage's folder, and of options: --NAME.key


@dataclass(frozen=True)
class EvalSpec:
    """The evaluations of a pipeline: every suite on every stage in every format, and further ones.

    Attributes:
        extra: evaluations in addition to this product: {stage, suite, format, further options}.
        options: keyword arguments of every evaluation.
        report: what the report shows of the evaluations.
    """

    suites: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=lambda: list(FORMATS))
    extra: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    report: ReportKeys = field(default_factory=ReportKeys)


@dataclass(frozen=True)
class Settings:
    """The content of a pipeline.yaml, or its defaults for a folder without one.

    Attributes:
        inputs: name -> help.
        stages: name -> recipe file, relative to the folder.
        evals: as written; `read_evals` checks it.
    """

    name: str
    seed: int | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    evals: dict[str, Any] = field(default_factory=dict)


def read_settings(recipe_dir: Path) -> Settings:
    """Read the pipeline.yaml of a recipe folder."""
    path = recipe_dir / PIPELINE_FILE
    if not path.is_file():
        raise _no_recipe_folder(recipe_dir)
    content = read_mapping(path)
    errors = [
        UserError(f"{path}: unknown key {key!r}", fix=suggestion(key, KEYS)) for key in content if key not in KEYS
    ]
    for key, hint in KEYS.items():
        if content.get(key) is None:
            content.pop(key, None)
        elif not fits(content[key], hint):
            errors.append(UserError(f"{path}: {key} cannot take this value", got=describe_value(content[key])))
    if RECIPE_DIR in (content.get("inputs") or ()):
        errors.append(UserError(f"{path}: no input can have the name {RECIPE_DIR}", fix="rename the input"))
    raise_all(errors)
    return Settings(**{"name": recipe_dir.resolve().name} | content)


def stage_files(settings: Settings, recipe_dir: Path) -> dict[str, Path]:
    """Return the recipe file of each stage: relative to the folder, or of a packaged recipe (`tiny/sft.yaml`)."""
    return {name: find_recipe(file, recipe_dir) for name, file in settings.stages.items()}


def _no_recipe_folder(folder: Path) -> UserError:
    """The error for a folder without pipeline.yaml, with the recipe folders near it and the packaged recipes."""
    got = f"no {PIPELINE_FILE}" if folder.is_dir() else "a file" if folder.is_file() else "no such folder"
    known = packaged()
    others = {str(file.parent) for pattern in ("*", "recipes/*") for file in Path().glob(f"{pattern}/{PIPELINE_FILE}")}
    here = sorted(path for path in others if Path(path).resolve() not in [one.resolve() for one in known.values()])
    expected = [f"a folder with {PIPELINE_FILE}{' such as ' * bool(here)}{', '.join(here)}"]
    expected += [f"a packaged recipe: {', '.join(known)}"]
    near = nearest_folder(folder, here)
    if folder.is_file() and folder.suffix == ".yaml":
        fix = _of_file(folder)
    elif folder.exists() and folder.name in known:
        free = name_here(folder.name)
        fix = f"rename {folder}, if you mean the packaged recipe{f', or write {free}' if free else ''}"
    else:
        otherwise = "check the path; `align init --list` describes the recipes"
        fix = f"did you mean {shlex.quote(near)}?" if near else otherwise
    return UserError(f"{folder} is not a recipe folder", got=got, expected="; or ".join(expected), fix=fix)


def _of_file(file: Path) -> str:
    """What runs a file that was given as a recipe folder."""
    stage, every = shlex.quote(short_name(file)), shlex.quote(short_name(file.parent))
    if file.name == PIPELINE_FILE:
        return f"give its folder: {every}"
    one = f"`align STAGE {stage}` runs one stage"
    return f"{one}, `align run {every}` all stages" if file.with_name(PIPELINE_FILE).is_file() else one


def check_stage_names(
    settings: Settings, known: list[str], source: Path, method_of: Callable[[str], str | None]
) -> None:
    """Raise for a pipeline without stages, or with stages that do not exist.

    Args:
        known: the names in the table of stages.
        source: the path of pipeline.yaml, for messages.
        method_of: returns the name in the table that a stage's name begins with.
    """
    if not settings.stages:
        raise UserError(f"{source} lists no stages", expected="stages: {NAME: RECIPE.yaml, ...}")
    raise_all(
        [
            UserError(
                f"{source}: no stage {name!r}",
                expected=f"a stage, or a name that begins with one and a hyphen, such as {known[-1]}-second",
                fix=suggestion(name, known),
            )
            for name in settings.stages
            if method_of(name) is None or not STAGE_NAME.fullmatch(name)
        ]
    )


def read_evals(
    evals: dict[str, Any], written: dict[str, Any], stages: list[str], source: Path, base: str | None = None
) -> EvalSpec:
    """Check the `evals` of a pipeline.

    Args:
        evals: `evals:` with the overrides of the command line.
        written: `evals:` as in pipeline.yaml; the report's keys may name what an override leaves out.
        stages: the stages of the pipeline.
        source: the path of pipeline.yaml, for messages.
        base: the model outside the pipeline that its first language model starts from, which BASE names.
    """
    if not evals:
        return EvalSpec()
    stages = [BASE, *stages] if base else stages
    options = dict(evals)
    named = ("suites", "stages", "formats", "extra")
    own: dict[str, Any] = {key: options.pop(key) for key in named if key in options}
    extra = own.get("extra", [])
    errors = [
        UserError(
            f"{source}: evals.{key} cannot take this value", got=describe_value(value), expected="a list of names"
        )
        for key, value in own.items()
        if key != "extra" and not fits(value, list[str])
    ]
    if not fits(extra, list[dict]) or any(not {"stage", "suite", "format"} <= set(item) for item in extra):
        expected = "a list of mappings with stage, suite and format"
        errors.append(UserError(f"{source}: evals.extra cannot take this value", got=str(extra), expected=expected))
    raise_all(errors)
    for key, valid in {"stages": stages, "formats": list(FORMATS)}.items():
        errors += [
            UserError(
                f"{source}: evals.{key} has no {name!r}", fix=NO_BASE if name == BASE else suggestion(name, valid)
            )
            for name in own.get(key, [])
            if name not in valid
        ]
    errors += [
        UserError(f"{source}: evals.extra has no {key} {item[key]!r}", fix=suggestion(item[key], valid))
        for item in extra
        for key, valid in {"stage": stages, "format": list(FORMATS)}.items()
        if item[key] not in valid
    ]
    raise_all(errors)
    listed = [*own.get("stages", []), *written.get("stages", [])]
    suites = [*own.get("suites", []), *written.get("suites", []), *(item["suite"] for item in extra)]
    report = report_keys(options, list(dict.fromkeys(listed)), list(dict.fromkeys(suites)), source)
    return EvalSpec(**own, options=options, report=report)
