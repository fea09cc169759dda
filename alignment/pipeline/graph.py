"""A recipe folder read into a pipeline: its stages in order, what each starts from, and what is evaluated after it.

Everything that can be known before a stage runs is checked here, and all that is wrong is reported together.
"""

import dataclasses
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import check_source
from alignment.errors import UserError, raise_all, suggestion
from alignment.pipeline.parents import check_kind, check_outside
from alignment.pipeline.recipes.recipe import (
    build_configs,
    fill_inputs,
    gathered,
    parse_overrides,
    placeholders,
    read_mapping,
    read_recipe,
    set_key,
)
from alignment.pipeline.recipes.typecheck import describe_value, fits

PIPELINE_FILE = "pipeline.yaml"
STAGE_PACKAGE = "alignment.stages"
KEYS = {"name": str, "seed": int, "inputs": dict[str, str], "stages": dict[str, str], "evals": dict[str, Any]}
FORMATS = ("plain", "chat")
# What --quick sets, where a stage has such a key: enough to see every stage run, not to learn anything.
QUICK_RECIPE = {"max_steps": 2, "max_train_samples": 64, "max_eval_samples": 16}
QUICK_EVALS = {"limit": 2}


@dataclass(frozen=True)
class StageSpec:
    """One stage of a pipeline.

    `recipe` is resolved (extended, overridden, inputs and seed filled in), but names its parents as it was written and
    holds no output_dir, so that it is the same in every run directory. `parents` are the recipe keys that name another
    stage of the run directory, `outside` those that name a path or hub id. `once` are keys for this run alone, which
    change nothing that the stage makes, and so are no part of what decides whether it is up to date.
    """

    name: str
    module: ModuleType
    recipe: dict[str, Any]
    recipe_path: Path
    parents: dict[str, str]
    outside: dict[str, str]
    once: dict[str, Any] = field(default_factory=dict)

    def configs(self, run_dir: Path) -> tuple[Any, ...]:
        """The stage's dataclasses, with its output folder and its parents' checkpoints filled in."""
        places = {key: str(run_dir / stage / "checkpoint") for key, stage in self.parents.items()}
        recipe = self.recipe | self.once | places | {"output_dir": str(run_dir / self.name)}
        return build_configs(self.module.CONFIGS, recipe, str(self.recipe_path))


@dataclass(frozen=True)
class EvalSpec:
    """Which stages are evaluated, on what; `options` go to the evaluation as they are.

    `extra` lists evaluations beside the product of the three: {stage, suite, format, further options}.
    """

    suites: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=lambda: list(FORMATS))
    extra: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    name: str
    seed: int
    run_dir: Path
    recipe_dir: Path
    stages: list[StageSpec]
    evals: EvalSpec
    inputs: dict[str, Any]


def without_self_check(pipeline: Pipeline) -> Pipeline:
    """The pipeline whose stages begin without the self-check, for this run."""

    def has_one(spec: StageSpec) -> bool:
        return any("self_check" in cls.__dataclass_fields__ for cls in spec.module.CONFIGS)

    stages = [replace(spec, once={"self_check": False}) if has_one(spec) else spec for spec in pipeline.stages]
    return replace(pipeline, stages=stages)


@dataclass(frozen=True)
class Settings:
    """What a pipeline.yaml says; of a folder that has none, what it would have said."""

    name: str
    seed: int | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    evals: dict[str, Any] = field(default_factory=dict)


def read_settings(recipe_dir: Path) -> Settings:
    """The pipeline.yaml of a recipe folder."""
    path = recipe_dir / PIPELINE_FILE
    if not path.is_file():
        found = sorted(str(file.parent) for file in Path("recipes").glob(f"*/{PIPELINE_FILE}"))
        raise UserError(
            f"{recipe_dir} is no recipe folder",
            got="a file"
            if recipe_dir.is_file()
            else "no such folder"
            if not recipe_dir.exists()
            else f"no {PIPELINE_FILE}",
            expected=f"a folder with {PIPELINE_FILE}",
            fix=f"recipe folders here: {', '.join(found)}" if found else "check the path",
        )
    content = read_mapping(path)
    errors = [
        UserError(f"{path}: unknown key {key!r}", fix=suggestion(key, KEYS)) for key in content if key not in KEYS
    ]
    for key, hint in KEYS.items():
        if content.get(key) is None:
            content.pop(key, None)
        elif not fits(content[key], hint):
            errors.append(UserError(f"{path}: {key} cannot take this value", got=describe_value(content[key])))
    raise_all(errors)
    return Settings(**{"name": recipe_dir.resolve().name} | content)


def stage_module(name: str, package: str) -> ModuleType:
    return importlib.import_module(f"{package}.{name}")


def load_pipeline(
    recipe_dir: str | Path,
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    seed: int | None = None,
    package: str = STAGE_PACKAGE,
    quick: bool = False,
    mistakes: dict[str, list[UserError]] | None = None,
) -> Pipeline:
    """Read and check a recipe folder.

    Args:
        overrides: `--STAGE.key value`, `--evals.key value` and `--INPUT value`, as given on the command line.
        output_dir: the run directory; default runs/NAME.
        seed: in place of the pipeline's own seed.
        package: the package whose STAGES, KINDS and modules are the stages.
        quick: a smoke run: two steps a stage and two items a task, whatever the recipes say.
        mistakes: where given, what is wrong with a stage's own keys is put here by its name and not raised, and no
            data is looked at: `align check` does that.
    """
    recipe_dir = Path(recipe_dir)
    settings = read_settings(recipe_dir)
    table = importlib.import_module(package)
    run_dir = Path(output_dir) if output_dir else Path("runs") / settings.name
    seed = seed if seed is not None else settings.seed or 0

    errors: list[UserError] = []
    with gathered(errors):
        _check_stage_names(settings, list(table.STAGES), recipe_dir / PIPELINE_FILE)
    raise_all(errors)
    paths = {name: recipe_dir / file for name, file in settings.stages.items()}
    recipes: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        with gathered(errors):
            recipes[name] = read_recipe(path)
    raise_all(errors)

    evals = dict(settings.evals)
    inputs: dict[str, Any] = {}
    with gathered(errors):
        inputs = _route_overrides(overrides, recipes, evals, settings)
    with gathered(errors):
        command = f"align run {recipe_dir}"
        _check_inputs(recipes, inputs, settings.inputs, recipe_dir / PIPELINE_FILE, command)
    raise_all(errors)

    stages: list[StageSpec] = []
    for name, recipe in recipes.items():
        with gathered(errors):
            _refuse_output_dir(recipe, paths[name])
            recipe = fill_inputs(recipe, inputs, str(paths[name]))
            earlier = [stage.name for stage in stages]
            later = [other for other in recipes if other not in earlier]
            spec = _stage_spec(name, name, paths[name], recipe, seed, package, {*table.STAGES, *recipes}, quick)
            stages.append(spec)
            _check_order(spec, earlier, later, table.KINDS)
    raise_all(errors)
    for spec in stages:
        if mistakes is None:
            errors += _mistakes_of_its_own(spec, run_dir)
        else:
            mistakes[spec.name] = _mistakes_of_its_own(spec, run_dir, with_data=False)
    eval_spec = EvalSpec()
    if quick and evals:
        evals |= QUICK_EVALS
    with gathered(errors):
        eval_spec = _eval_spec(evals, list(recipes), recipe_dir / PIPELINE_FILE)
    raise_all(errors)
    return Pipeline(settings.name, seed, run_dir, recipe_dir, stages, eval_spec, inputs)


def load_stage(
    stage: str,
    recipe_path: str | Path,
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    seed: int | None = None,
    package: str = STAGE_PACKAGE,
    quick: bool = False,
    mistakes: dict[str, list[UserError]] | None = None,
) -> Pipeline:
    """A pipeline of one stage, whose recipe file is given, as `align STAGE RECIPE` runs it.

    Where the recipe belongs to a pipeline.yaml beside it, that gives seed, inputs and the run directory's name, so
    that stages run one by one give what `align run` gives. `mistakes`: as in `load_pipeline`; parents that the
    pipeline.yaml lists need not have been run then.
    """
    recipe_path = Path(recipe_path)
    recipe = read_recipe(recipe_path)
    beside = recipe_path.parent / PIPELINE_FILE
    settings = read_settings(recipe_path.parent) if beside.is_file() else Settings(recipe_path.resolve().parent.name)
    table = importlib.import_module(package)
    inputs = {}
    for key, value in parse_overrides(list(overrides)).items():
        if key in settings.inputs:
            inputs[key] = value
        else:
            set_key(recipe, key, value)
    _check_inputs({stage: recipe}, inputs, settings.inputs, beside, f"align {stage} {recipe_path}")
    recipe = fill_inputs(recipe, inputs, str(recipe_path))

    own = recipe.pop("output_dir", None)
    place = Path(output_dir or _own_place(own, recipe_path) or Path("runs") / settings.name / stage)
    seed = seed if seed is not None else settings.seed or 0
    beside_it = {path.parent.name for path in place.parent.glob("*/stage.json")}
    spec = _stage_spec(
        place.name, stage, recipe_path, recipe, seed, package, {*table.STAGES, *beside_it} - {place.name}, quick
    )
    errors: list[UserError] = []
    for key, parent in spec.parents.items():
        with gathered(errors):
            expected = spec.module.PARENTS[key]
            check_kind(f"{recipe_path}: {key}", parent, table.KINDS.get(parent), expected)
            if mistakes is None or parent not in settings.stages:
                _check_finished(recipe_path, key, parent, place.parent, expected)
    if mistakes is None:
        raise_all(errors + _mistakes_of_its_own(spec, place.parent))
    else:
        mistakes[spec.name] = errors + _mistakes_of_its_own(spec, place.parent, with_data=False)
    return Pipeline(settings.name, seed, place.parent, recipe_path.parent, [spec], EvalSpec(), inputs)


def _check_stage_names(settings: Settings, known: list[str], source: Path) -> None:
    if not settings.stages:
        raise UserError(f"{source} lists no stages", expected="stages: {NAME: RECIPE.yaml, ...}")
    raise_all(
        [
            UserError(f"{source}: no stage {name!r}", fix=suggestion(name, known))
            for name in settings.stages
            if name not in known
        ]
    )


def _route_overrides(
    overrides: Sequence[str], recipes: dict[str, dict[str, Any]], evals: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    """Apply `--STAGE.key` and `--evals.key` in place; the inputs are returned."""
    inputs, errors = {}, []
    for key, value in parse_overrides(list(overrides)).items():
        part, dot, rest = key.partition(".")
        with gathered(errors):
            if dot and part in recipes:
                set_key(recipes[part], rest, value)
            elif dot and part == "evals":
                set_key(evals, rest, value)
            elif not dot and key in settings.inputs:
                inputs[key] = value
            else:
                raise _unknown_override(key, part, list(recipes), list(settings.inputs))
    raise_all(errors)
    return inputs


def _unknown_override(key: str, part: str, stages: list[str], inputs: list[str]) -> UserError:
    expected = "--STAGE.key, where STAGE is " + ", ".join([*stages, "evals"])
    if inputs:
        expected += "; or an input: " + ", ".join(inputs)
    fix = f"a stage's key takes the stage's name: --sft.{key}" if "." not in key else None
    return UserError(f"no stage or input for --{key}", got=part, expected=expected, fix=fix or suggestion(part, stages))


def _check_inputs(
    recipes: dict[str, dict[str, Any]], inputs: dict[str, Any], declared: dict[str, str], source: Path, command: str
) -> None:
    """Raise for inputs that are asked for and not given, with their help and the command that would give them."""
    asked = {name: stage for stage, recipe in recipes.items() for name in placeholders(recipe)}
    undeclared = [name for name in asked if name not in declared]
    if undeclared:
        raise UserError(
            f"the recipe of {asked[undeclared[0]]} asks for an input that {source} does not list",
            got=f"${{{undeclared[0]}}}",
            expected=f"inputs: {{{undeclared[0]}: what it is}}",
            fix=suggestion(undeclared[0], declared) if declared else None,
        )
    missing = [name for name in declared if name in asked and name not in inputs]
    if missing:
        raise UserError(
            f"{source} needs inputs that were not given: {', '.join(missing)}",
            expected="\n          ".join(f"--{name}  {declared[name]}" for name in missing),
            fix=" ".join([command, *(f"--{name} {name.upper()}" for name in declared if name in asked)]),
        )


def _refuse_output_dir(recipe: dict[str, Any], path: Path) -> None:
    if "output_dir" in recipe:
        raise UserError(
            f"{path} sets output_dir",
            got=recipe["output_dir"],
            expected="none: in a pipeline a stage's folder is RUN_DIR/STAGE",
            fix="take it out; `align run --output_dir` sets the run directory",
        )


def _own_place(output_dir: str | None, path: Path) -> str | None:
    """The output_dir of a recipe, which may lie anywhere below the working directory: recipes come from anywhere."""
    if output_dir is not None and not Path(os.path.abspath(output_dir)).is_relative_to(Path.cwd()):
        raise UserError(
            f"{path}: output_dir leads out of the working directory",
            got=output_dir,
            expected=f"a folder below {Path.cwd()}",
            fix="leave it out of the recipe, and give --output_dir on the command line",
        )
    return output_dir


def _refuse_code(recipe: dict[str, Any], path: Path) -> None:
    if recipe.get("trust_remote_code"):
        raise UserError(
            f"{path}: trust_remote_code would run the code of a checkpoint",
            got=recipe["trust_remote_code"],
            expected="false: models are of architectures that transformers or this project has",
            fix="take it out",
        )


def _stage_spec(
    name: str,
    stage: str,
    path: Path,
    recipe: dict[str, Any],
    seed: int,
    package: str,
    stage_names: set[str],
    quick: bool,
) -> StageSpec:
    """The spec of a stage, its parents parted into stages of the run directory and what comes from outside."""
    _refuse_code(recipe, path)
    module = stage_module(stage, package)
    keys = {entry.name for config in module.CONFIGS for entry in dataclasses.fields(config)}
    if "seed" in keys:
        recipe = {"seed": seed} | recipe
    if quick and "max_steps" in keys:
        recipe = recipe | {key: value for key, value in QUICK_RECIPE.items() if key in keys}
    parents, outside = {}, {}
    for key, expected in module.PARENTS.items():
        value = recipe.get(key)
        if not isinstance(value, str):
            continue
        if value in stage_names:
            parents[key] = value
        else:
            check_outside(f"{path}: {key}", value, expected, sorted(stage_names))
            outside[key] = value
    return StageSpec(name, module, recipe, path, parents, outside)


def _mistakes_of_its_own(spec: StageSpec, run_dir: Path, with_data: bool = True) -> list[UserError]:
    """What is wrong with a stage's keys and values, and with its data as far as that is here to look at."""
    errors: list[UserError] = []
    configs: tuple[Any, ...] = ()
    with gathered(errors):
        configs = spec.configs(run_dir)
    for data in configs:
        if with_data and isinstance(data, DataArguments):
            with gathered(errors):
                check_source(data, spec.module.DATA_KIND)
    return errors


def _check_order(spec: StageSpec, earlier: list[str], later: list[str], kinds: dict[str, str]) -> None:
    errors = []
    for key, parent in spec.parents.items():
        if parent in later:
            fix = "a stage cannot start from itself" if parent == spec.name else f"list {parent} above {spec.name}"
            errors.append(
                UserError(
                    f"{spec.recipe_path}: {key} names a stage that does not run before this one", got=parent, fix=fix
                )
            )
        elif parent not in earlier:
            errors.append(
                UserError(
                    f"{spec.recipe_path}: {key} names a stage that this pipeline does not have",
                    got=parent,
                    expected=f"one of {', '.join(earlier) or 'none yet'}, a path or a hub id",
                    fix=f"list {parent} in {PIPELINE_FILE}, above {spec.name}",
                )
            )
        with gathered(errors):
            check_kind(f"{spec.recipe_path}: {key}", parent, kinds.get(parent), spec.module.PARENTS[key])
    raise_all(errors)


def _check_finished(recipe_path: Path, key: str, parent: str, run_dir: Path, expected: str) -> None:
    folder = run_dir / parent / "checkpoint"
    if not folder.is_dir():
        raise UserError(
            f"{recipe_path}: {key} names a stage that has not been run",
            got=f"{parent} (no {folder})",
            expected=f"a finished {parent} stage, or the path of a {expected} checkpoint",
            fix=f"align {parent} {recipe_path.parent / parent}.yaml",
        )


def _eval_spec(evals: dict[str, Any], stages: list[str], source: Path) -> EvalSpec:
    if not evals:
        return EvalSpec()
    options = dict(evals)
    own = {key: options.pop(key) for key in ("suites", "stages", "formats", "extra") if key in options}
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
            UserError(f"{source}: evals.{key} has no {name!r}", fix=suggestion(name, valid))
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
    return EvalSpec(**own, options=options)
