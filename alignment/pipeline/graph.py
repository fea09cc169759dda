"""A pipeline read from a recipe folder or file: its stages in order, their parents, and the evaluations after each.

Everything that can be known before a stage runs is checked here, and all mistakes are reported together.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from alignment.errors import UserError, gathered, raise_all
from alignment.pipeline.made_rows_read import mistakes_in_made_rows
from alignment.pipeline.parents import check_kind
from alignment.pipeline.recipes.overrides import check_inputs, parse_overrides, route_overrides, set_key
from alignment.pipeline.recipes.packaged_recipes import locate_recipe, short_name
from alignment.pipeline.recipes.pipeline_file import (
    BASE,
    PIPELINE_FILE,
    EvalSpec,
    Settings,
    check_stage_names,
    read_evals,
    read_settings,
    stage_files,
)
from alignment.pipeline.recipes.recipe import fill_inputs, read_recipe
from alignment.pipeline.stage_spec import (
    STAGE_PACKAGE,
    StageSpec,
    checkpoint_kind,
    method_of,
    mistakes_in_keys,
    mistakes_in_values,
    stage_spec,
    stage_table,
)
from alignment.stages import CAUSAL_LM, DATA, product_of

QUICK_EVALS = {"limit": 2}


@dataclass(frozen=True)
class Pipeline:
    """A pipeline to run.

    Attributes:
        seed: the training seed of every stage that sets none.
        run_dir: where its stages and evaluations are written.
        recipe_dir: the folder that its recipes were read from.
        inputs: the values given for the inputs that pipeline.yaml declares.
    """

    name: str
    seed: int
    run_dir: Path
    recipe_dir: Path
    stages: list[StageSpec]
    evals: EvalSpec
    inputs: dict[str, Any]


def without_self_check(pipeline: Pipeline) -> Pipeline:
    """A copy of a pipeline whose stages skip the self-check in this run."""

    stages = [
        replace(spec, once={"self_check": False}) if "self_check" in spec.keys.names else spec
        for spec in pipeline.stages
    ]
    return replace(pipeline, stages=stages)


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
        recipe_dir: a path, or the name of a packaged recipe if there is no such path.
        overrides: `--STAGE.key value`, `--evals.key value` and `--INPUT value`, as given on the command line.
        output_dir: the run directory; default: runs/NAME.
        seed: replaces the seed in pipeline.yaml.
        package: the package that holds the stages.
        quick: a smoke run: two steps per stage and two items per task, whatever the recipes say.
        mistakes: if given, takes the mistakes in each stage's own keys by the stage's name, instead of raising them,
            and data is not checked: `align check` does that.

    Raises:
        UserError: one mistake, or UserErrors with all of them.
    """
    recipe_dir = locate_recipe(recipe_dir)
    settings, source = read_settings(recipe_dir), recipe_dir / PIPELINE_FILE
    run_dir = Path(output_dir) if output_dir else Path("runs") / settings.name
    seed = seed if seed is not None else settings.seed or 0
    check_stage_names(settings, list(stage_table(package)), source, partial(method_of, package=package))
    paths = stage_files(settings, recipe_dir)
    recipes = _read_all(paths)

    errors: list[UserError] = []
    evals, inputs = dict(settings.evals), {}
    with gathered(errors):
        inputs = route_overrides(overrides, recipes, evals, list(settings.inputs))
    with gathered(errors):
        verb = "run" if mistakes is None else "check"
        check_inputs(recipes, inputs, settings.inputs, source, f"align {verb} {short_name(recipe_dir)}")
    raise_all(errors)

    stages = _stages(recipes, paths, inputs, seed, package, quick)
    evaluated = EvalSpec()
    with gathered(errors):
        given = evals | QUICK_EVALS if quick and evals else evals
        outside = outside_model(stages)
        evaluated = read_evals(given, settings.evals, list(recipes), source, outside and outside[1])
    _find_mistakes(stages, run_dir, errors, mistakes)
    return Pipeline(settings.name, seed, run_dir, recipe_dir, stages, evaluated, inputs)


def outside_model(stages: Sequence[StageSpec]) -> tuple[str, str] | None:
    """The first stage that makes a language model, and the model outside the run that it starts from, if it does.

    A stage with the name BASE hides that model.
    """
    first = next((spec for spec in stages if spec.facts.checkpoint == CAUSAL_LM), None)
    model = first.outside.get("model_name_or_path") if first else None
    return None if first is None or model is None or BASE in [spec.name for spec in stages] else (first.name, model)


def _find_mistakes(
    stages: Sequence[StageSpec],
    run_dir: Path,
    others: Sequence[UserError],
    mistakes: dict[str, list[UserError]] | None,
) -> None:
    """Raise the mistakes in stages, or put them into `mistakes`: all in keys and files first, before any in values.

    A library must be imported to try a value in it, which takes seconds; wrong keys are found before.

    Args:
        others: mistakes outside the stages' own keys, which are raised in any case.
        mistakes: as in `load_pipeline`.
    """
    found = {spec.name: mistakes_in_keys(spec, run_dir, with_data=mistakes is None) for spec in stages}
    raise_all([*(chain(*found.values()) if mistakes is None else ()), *others])
    for spec in stages:
        found[spec.name] = found[spec.name] or mistakes_in_values(spec, run_dir, with_data=mistakes is None)
    sound = {spec.name: spec for spec in stages if not found[spec.name]}
    for spec in sound.values():
        found[spec.name] = mistakes_in_made_rows(spec, sound, run_dir)
    if mistakes is None:
        raise_all([*chain(*found.values())])
    else:
        mistakes |= found


def _read_all(paths: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Stage -> recipe; mistakes in all files are raised together."""
    errors: list[UserError] = []
    recipes: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        with gathered(errors):
            recipes[name] = read_recipe(path)
    raise_all(errors)
    return recipes


def _stages(
    recipes: dict[str, dict[str, Any]],
    paths: dict[str, Path],
    inputs: dict[str, Any],
    seed: int,
    package: str,
    quick: bool,
) -> list[StageSpec]:
    """The specs of a pipeline's stages, each of which may start from those before it."""
    errors: list[UserError] = []
    stages: list[StageSpec] = []
    known = {*stage_table(package), *recipes}
    for name, recipe in recipes.items():
        with gathered(errors):
            _refuse_output_dir(recipe, paths[name])
            filled = fill_inputs(recipe, inputs, str(paths[name]))
            earlier = [stage.name for stage in stages]
            later = [other for other in recipes if other not in earlier]
            method = method_of(name, package) or name
            stages.append(stage_spec(name, method, paths[name], filled, seed, package, known, quick))
            _check_order(stages[-1], earlier, later, package)
    raise_all(errors)
    return stages


def load_stage(
    stage: str,
    recipe_path: str | Path,
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    seed: int | None = None,
    package: str = STAGE_PACKAGE,
    quick: bool = False,
    mistakes: dict[str, list[UserError]] | None = None,
    recipe: dict[str, Any] | None = None,
) -> Pipeline:
    """A pipeline of the single stage `stage`, read from its recipe file, as `align STAGE RECIPE` runs it.

    A pipeline.yaml in the recipe's folder sets the seed, the inputs and the name of the run directory, so that stages
    run one by one give the same results as `align run`.

    Args:
        overrides: `--key value` and `--INPUT value`, as given on the command line.
        output_dir: the stage's folder; default: the recipe's `output_dir`, else runs/NAME/STAGE.
        mistakes: as in `load_pipeline`; parents that pipeline.yaml lists then need no checkpoint yet.
        recipe: the recipe, if its file is not written yet.
    """
    recipe_path = locate_recipe(recipe_path)
    recipe = read_recipe(recipe_path) if recipe is None else copy.deepcopy(recipe)
    source = recipe_path.parent / PIPELINE_FILE
    settings = read_settings(recipe_path.parent) if source.is_file() else Settings(recipe_path.resolve().parent.name)
    inputs = {}
    for key, value in parse_overrides(overrides).items():
        if key in settings.inputs:
            inputs[key] = value
        else:
            set_key(recipe, key, value)
    verb = stage if mistakes is None else "check"
    check_inputs({stage: recipe}, inputs, settings.inputs, source, f"align {verb} {short_name(recipe_path)}")
    recipe = fill_inputs(recipe, inputs, str(recipe_path))

    own = recipe.pop("output_dir", None)
    place = Path(output_dir or _checked_output_dir(own, recipe_path) or Path("runs") / settings.name / stage)
    seed = seed if seed is not None else settings.seed or 0
    try:
        finished = {path.parent.name for path in place.parent.glob("*/stage.json")}
    except (OSError, ValueError) as error:  # a name that is too long, or has a null byte
        raise UserError(
            f"cannot write {place}: it cannot be a folder", got=error, fix="choose another --output_dir"
        ) from error
    known = {*stage_table(package), *finished} - {place.name}
    spec = stage_spec(place.name, stage, recipe_path, recipe, seed, package, known, quick)
    errors: list[UserError] = []
    for key, parent in spec.parents.items():
        with gathered(errors):
            expected = spec.needs(key)
            check_kind(f"{recipe_path}: {key}", parent, checkpoint_kind(parent, package), expected, key)
            if mistakes is None or parent not in settings.stages:
                _check_finished(recipe_path, key, parent, place.parent, expected, method_of(parent, package))
    if mistakes is None:
        _find_mistakes([spec], place.parent, errors, None)
    else:
        _find_mistakes([spec], place.parent, [], mistakes)
        mistakes[spec.name] = [*errors, *mistakes[spec.name]]
    return Pipeline(settings.name, seed, place.parent, recipe_path.parent, [spec], EvalSpec(), inputs)


def _refuse_output_dir(recipe: dict[str, Any], path: Path) -> None:
    if "output_dir" in recipe:
        raise UserError(
            f"{path} sets output_dir",
            got=recipe["output_dir"],
            expected="no output_dir: in a pipeline a stage's folder is RUN_DIR/STAGE",
            fix="remove it; `align run --output_dir` sets the run directory",
        )


def _checked_output_dir(output_dir: str | None, path: Path) -> str | None:
    """The `output_dir` of a recipe, which must be below the working directory: recipes may come from anyone."""
    if output_dir is not None and not Path(os.path.abspath(output_dir)).is_relative_to(Path.cwd()):
        raise UserError(
            f"{path}: output_dir is outside the working directory",
            got=output_dir,
            expected=f"a folder below {Path.cwd()}",
            fix="remove it from the recipe, and set --output_dir on the command line",
        )
    return output_dir


def _check_order(spec: StageSpec, earlier: list[str], later: list[str], package: str) -> None:
    errors: list[UserError] = []
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
            check_kind(f"{spec.recipe_path}: {key}", parent, checkpoint_kind(parent, package), spec.needs(key), key)
    raise_all(errors)


def _check_finished(recipe_path: Path, key: str, parent: str, run_dir: Path, expected: str, method: str | None) -> None:
    folder = run_dir / parent / product_of(expected)
    if not folder.is_dir():
        recipe = f"{short_name(recipe_path.parent / parent)}.yaml"
        place = f" --output_dir {run_dir / parent}" if method != parent else ""  # by default the method's own folder
        raise UserError(
            f"{recipe_path}: {key} names a stage that has not been run",
            got=f"{parent} (no {folder})",
            expected=f"a finished {parent} stage, or "
            + ("a data set" if expected == DATA else f"the path of a {expected} checkpoint"),
            fix=f"align {method or parent} {recipe}{place}",
        )
