"""One stage of a pipeline: its module, its resolved recipe and its parents."""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import check_source, require_source
from alignment.errors import UserError, gathered
from alignment.pipeline.named_rows import is_rows_key, named_models, named_rows, with_places
from alignment.pipeline.parents import check_outside
from alignment.pipeline.recipes import key_table
from alignment.pipeline.recipes.configs import build_configs, own_keys
from alignment.pipeline.recipes.keys import Keys, keys_of_module
from alignment.pipeline.recipes.pipeline_file import STAGE_NAME
from alignment.stages import DATA, Stage, product_of

STAGE_PACKAGE = "alignment.stages"
# What --quick sets for the keys that a stage has: enough to see every stage run, not to learn anything.
QUICK_RECIPE = {"max_steps": 2, "max_train_samples": 64, "max_eval_samples": 16, "logging_steps": 1}
# And what it sets for data stages: after two steps a judge has no opinion, and hardly any reply ends.
QUICK_ROWS: dict[str, Any] = {"min_mass": 0.0, "min_confidence": 0.5, "keep_truncated": True}
QUICK_ROWS |= dict.fromkeys(("max_position_bias", "max_length_bias", "min_agreement"))


def is_smoke(recipe: Mapping[str, Any]) -> bool:
    """Whether a resolved recipe trains for no more steps than `--quick` does, by the flag or by its own keys."""
    steps = recipe.get("max_steps")
    return isinstance(steps, int) and 0 < steps <= QUICK_RECIPE["max_steps"]


def stage_table(package: str = STAGE_PACKAGE) -> Mapping[str, Stage]:
    """The table of a package's stages: the facts about each, by name."""
    return importlib.import_module(package).STAGES


def method_of(name: str, package: str = STAGE_PACKAGE) -> str | None:
    """The row of a stage's name in the table of stages: `dpo` for `dpo` and for `dpo-second`; None if there is none.

    A pipeline may have several stages of a method: each with a suffix after a hyphen.
    """
    found = [method for method in stage_table(package) if name == method or name.startswith(f"{method}-")]
    return max(found, key=len, default=None)


def checkpoint_kind(name: str, package: str = STAGE_PACKAGE) -> str | None:
    """The kind of checkpoint that a stage writes, a key of `parents.SERVES`; None if the package has no such stage."""
    method = method_of(name, package)
    return stage_table(package)[method].checkpoint if method else None


def stage_module(stage: str, package: str = STAGE_PACKAGE) -> ModuleType:
    """The module that runs a stage; its import takes seconds."""
    return importlib.import_module(f"{package}.{stage}")


def stage_keys(stage: str, package: str = STAGE_PACKAGE) -> Keys:
    """The recipe keys of a stage: from the table, or from its module if the table does not have them."""
    listed = key_table.read(stage) if package == STAGE_PACKAGE else None
    return listed or keys_of_module(stage_module(stage, package))


@dataclass(frozen=True)
class StageSpec:
    """One stage of a pipeline.

    Attributes:
        name: of its folder in the run directory.
        method: the stage's row in the table of stages: `ppo` for a stage or a folder ppo-brief.
        facts: that row.
        package: of the stage's module.
        keys: the keys that its recipe may have.
        recipe: the resolved recipe: extended, overridden, inputs and seed filled in. It names parents as they were
            written and holds no output_dir, so that it is the same in every run directory.
        parents: recipe key -> another stage of the run directory, with the keys of `named_models` and `named_rows`.
        outside: recipe key -> path or hub id of a parent outside the run directory.
        once: keys for this run alone, which do not change what the stage makes; they do not count when deciding
            whether the stage is up to date.
    """

    name: str
    method: str
    facts: Stage
    package: str
    keys: Keys
    recipe: dict[str, Any]
    recipe_path: Path
    parents: dict[str, str]
    outside: dict[str, str]
    once: dict[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> ModuleType:
        """The module that runs the stage."""
        return stage_module(self.method, self.package)

    @property
    def rows_from(self) -> dict[str, str]:
        """Recipe key -> the stage that writes these rows."""
        return {key: stage for key, stage in self.parents.items() if is_rows_key(key)}

    def needs(self, key: str) -> str:
        """The kind of parent that a key needs."""
        return DATA if is_rows_key(key) else self.keys.parents[key.partition(".")[0]]

    def place_of(self, key: str, run_dir: Path) -> Path:
        """The folder of a parent in the run directory: its checkpoint, or its rows."""
        return run_dir / self.parents[key] / product_of(self.needs(key))

    def placed(self, run_dir: Path) -> dict[str, Any]:
        """The recipe, with the stage's output folder, its parents' checkpoints and their rows filled in."""
        places = {key: str(self.place_of(key, run_dir)) for key in self.parents}
        return with_places(self.recipe | self.once, places) | {"output_dir": str(run_dir / self.name)}

    def configs(self, run_dir: Path) -> tuple[Any, ...]:
        """The stage's dataclasses, from its recipe."""
        return build_configs(self.module.CONFIGS, self.placed(run_dir), str(self.recipe_path))


def stage_spec(
    name: str,
    method: str,
    path: Path,
    recipe: dict[str, Any],
    seed: int,
    package: str,
    stage_names: Collection[str],
    quick: bool,
) -> StageSpec:
    """Build the spec of a stage from its recipe.

    Args:
        path: the recipe's file, for messages.
        recipe: with inputs and overrides applied.
        seed: for a recipe that sets none.
        stage_names: values of a parent's key that mean a stage of the run directory, not a path or hub id.
    """
    _refuse_code(recipe, path)
    keys, facts = stage_keys(method, package), stage_table(package)[method]
    if "seed" in keys.names:
        recipe = {"seed": seed} | recipe
    if quick and ("max_steps" in keys.names or facts.checkpoint == DATA):
        given = QUICK_RECIPE if facts.checkpoint != DATA else QUICK_RECIPE | QUICK_ROWS
        recipe = recipe | {key: value for key, value in given.items() if key in keys.names}
    parents, outside = {}, {}
    for key, value, expected in named_models(recipe, keys.parents):
        if value in stage_names:
            parents[key] = value
        else:
            check_outside(f"{path}: {key}", value, expected, sorted(stage_names), key)
            outside[key] = value
    for key, value in named_rows(recipe):
        if value in stage_names or _names_rows(value, package):
            parents[key] = value
    return StageSpec(name, method, facts, package, keys, recipe, path, parents, outside)


def _names_rows(value: str, package: str) -> bool:
    """Whether a source of rows can only be a data stage, which may be missing: no file or folder has this name."""
    if not STAGE_NAME.fullmatch(value) or checkpoint_kind(value, package) != DATA:
        return False
    return not Path(value).exists()


def mistakes_in_keys(spec: StageSpec, run_dir: Path, with_data: bool = True) -> list[UserError]:
    """The mistakes that show without the libraries of the stage, whose import takes seconds.

    They are unknown and missing keys, wrong types of values and, if there are none, what `DataArguments` refuses and,
    `with_data`, data that does not exist.
    """
    recipe, source = spec.placed(run_dir), str(spec.recipe_path)
    errors = spec.keys.mistakes(recipe, source)
    if errors or not {entry.name for entry in fields(DataArguments)} <= spec.keys.names:
        return errors
    with gathered(errors):
        (data,) = build_configs((DataArguments,), own_keys(DataArguments, recipe), source)
        if with_data:
            require_source(data, spec.facts.data, _rows_to_come(spec, run_dir))
    return errors


def mistakes_in_values(spec: StageSpec, run_dir: Path, with_data: bool = True) -> list[UserError]:
    """The mistakes in a stage's values and, `with_data`, in what can be checked of its data."""
    from trl import ModelConfig

    errors: list[UserError] = []
    configs: tuple[Any, ...] = ()
    with gathered(errors):
        configs = spec.configs(run_dir)
    for config in configs:
        if isinstance(config, ModelConfig) and not (config.model_name_or_path or "").strip():
            errors.append(
                UserError(
                    f"{spec.recipe_path}: the key 'model_name_or_path' is missing",
                    expected="the model to start from: a stage name, a checkpoint folder or a hub id",
                )
            )
    for data in configs:
        if with_data and isinstance(data, DataArguments):
            with gathered(errors):
                check_source(data, spec.facts.data, _rows_to_come(spec, run_dir))
    return errors


def _rows_to_come(spec: StageSpec, run_dir: Path) -> set[str]:
    """The sources of a stage that earlier stages have yet to write, or will write again."""
    return {str(spec.place_of(key, run_dir)) for key in spec.rows_from}


def _refuse_code(recipe: dict[str, Any], path: Path) -> None:
    if recipe.get("trust_remote_code"):
        raise UserError(
            f"{path}: trust_remote_code would run the code of a checkpoint",
            got=recipe["trust_remote_code"],
            expected="false: models are of architectures that transformers or this project has",
            fix="remove it",
        )
