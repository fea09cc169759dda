"""Where a recipe that was made for a stage is written, and by which command it was made."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.cli.train.smoke_runs import QUICK
from alignment.durable.atomic import write_text
from alignment.durable.read import read_json
from alignment.errors import UserError
from alignment.pipeline.recipes.overrides import parse_overrides
from alignment.pipeline.recipes.recipe import read_recipe
from alignment.pipeline.records.previous import OWN_RECIPE, PREVIOUS, holds_results
from alignment.pipeline.records.record import FILE, RunRecord
from alignment.pipeline.stage_spec import is_smoke
from alignment.redaction import redact_text
from alignment.yaml_text import write_yaml

logger = logging.getLogger(__name__)

COMMAND = "# command   "
STAGE_FILE, DIGITS = "stage.json", "0123456789"


@dataclass(frozen=True)
class Place:
    """Where a stage without a recipe is written.

    Attributes:
        folder: the stage's folder, in the run directory.
        parent: the stage of the same run directory that the model is the checkpoint of, if it is one.
        by_name: whether the run directory was chosen by the model's name alone.
    """

    folder: Path
    parent: str | None
    by_name: bool = False

    @property
    def recipe(self) -> Path:
        """The recipe's file: RUN_DIR/STAGE.yaml, or STAGE/recipe.yaml if the stage's folder lies among other files.

        A recipe that exists stays where it is.
        """
        next_to, inside = self.folder.with_name(f"{self.folder.name}.yaml"), self.folder / OWN_RECIPE
        if inside.is_file() or next_to.is_file():
            return inside if inside.is_file() else next_to
        return inside if _is_among_others(self.folder) else next_to


def place_of(stage: str, model: str, output_dir: str | None, quick: bool = False) -> Place:
    """Return the place: the run directory that the model comes from, or a new one with the model's name.

    A smoke run has a run directory of its own, so that it never takes the place of a real run; only if the model comes
    from a smoke run it joins that run. A model among the replaced results of a run is not a stage of that run.

    Raises:
        UserError: `output_dir` has no name.
    """
    trained = Path(model).expanduser()
    within = _stage_folder(trained)
    if output_dir:
        folder = _named(Path(output_dir))
    elif within is None:
        name = re.sub(r"[^\w.-]+", "-", Path(os.path.abspath(trained) if trained.is_dir() else model).name).strip("-.")
        folder = Path("runs") / ((name or "model") + (QUICK if quick else "")) / stage
    elif _is_replaced(within):
        run = _named(within.parent.parent)
        folder = run.with_name(f"{run.name}-{within.name}{QUICK if quick else ''}") / stage
    else:
        record = RunRecord(within.parent)
        if quick and not is_smoke(record.stages.get(within.name, {}).get("recipe") or {}):
            run = _named(within.parent)
            folder = run.with_name(run.name + QUICK) / stage
        else:
            folder = within.parent / _free(stage, within, record)
    same = within is not None and within.parent.resolve() == folder.parent.resolve()
    parent = within.name if same and within and within.name != folder.name else None
    return Place(folder, parent, by_name=within is None and not output_dir)


def _stage_folder(model: Path) -> Path | None:
    """Return the folder of the stage that wrote a checkpoint, if a stage did."""
    folder = model.parent if model.name == "checkpoint" else model
    return folder if (folder / STAGE_FILE).is_file() else None


def _is_replaced(stage_folder: Path) -> bool:
    """Whether a stage's folder is one that a rerun moved to RUN_DIR/previous."""
    around = Path(os.path.abspath(stage_folder)).parent
    return around.name == PREVIOUS and not (around / FILE).is_file() and (around.parent / FILE).is_file()


def _free(stage: str, within: Path, record: RunRecord) -> str:
    """Return the name for a new stage that starts from `within`: never that of a stage which `within` was made from."""
    taken = {within.name, *record.ancestors(within.name)}
    if within.name not in record.stages:  # a copied folder
        taken |= set((read_json(within / STAGE_FILE).get("parents") or {}).values())
    name = stage if stage != within.name.rstrip(DIGITS) else _next(within.name)
    while name in taken:
        name = _next(name)
    return name


def _is_among_others(folder: Path) -> bool:
    """Whether the folder that holds a stage's folder is the working folder, or one with files of something else."""
    around = Path(os.path.abspath(folder)).parent
    if around == Path.cwd():
        return True
    return (
        around.is_dir() and not (around / FILE).is_file() and any(path.name != folder.name for path in around.iterdir())
    )


def _named(folder: Path) -> Path:
    if folder.name in ("", ".."):
        folder = Path(os.path.abspath(folder))
    if not folder.name:
        raise UserError("--output_dir is no folder for a stage", got=folder, expected="runs/NAME/STAGE")
    return folder


def _next(name: str) -> str:
    """Return the name of a stage that continues the stage `name`: sft2 after sft, sft3 after sft2."""
    stem = name.rstrip(DIGITS)
    return f"{stem}{int(name[len(stem) :] or 1) + 1}"


def require_unclaimed(place: Place) -> None:
    """Raise if the place, which the user has not named, holds the work of a stage that another recipe made."""
    if not holds_results(place.folder):
        return
    entry = RunRecord(place.folder.parent).stages.get(place.folder.name)
    recorded = (entry or {}).get("recipe_file")
    if recorded:
        foreign = not _is_file(str(recorded), place.recipe)
    else:
        foreign = (place.folder / STAGE_FILE).is_file() and not place.recipe.is_file()
    if foreign:
        what = "the result" if entry is None or entry.get("status") == "done" else "the unfinished work"
        raise UserError(
            f"{place.folder} is {what} of another recipe, and would be replaced",
            got=recorded,
            expected=f"a stage that a command without a recipe made ({place.recipe})",
            fix=f"--output_dir runs/{place.folder.parent.name}-mine/{place.folder.name}, or another folder",
        )


def _is_file(recorded: str, recipe: Path) -> bool:
    """Whether a recipe's path, relative to the working folder of an earlier command, is that of a file."""
    own, parts = recipe.resolve(), Path(recorded).parts
    return Path(recorded).resolve() == own or own.parts[-len(parts) :] == parts


def require_same_model(place: Place, model: str) -> None:
    """Raise if the run directory, which has the model's name, is that of another model.

    Args:
        model: that the stage starts from, outside the run directory.
    """
    run_dir = place.folder.parent
    roots = _roots(run_dir)
    before = read_recipe(place.recipe).get("model_name_or_path") if place.recipe.is_file() else None
    others = [root for root in ([str(before)] if before else roots) if not same_model(root, model)]
    if others and (before or len(others) == len(roots)):
        raise UserError(
            f"{run_dir} is the run directory of another model with this name",
            got=f"{model}; there {others[0]}",
            fix=f"--output_dir runs/ANOTHER-NAME/{place.folder.name}",
        )


def same_model(one: str, other: str) -> bool:
    """Whether two paths or hub ids name one model."""
    return one == other or os.path.abspath(os.path.expanduser(one)) == os.path.abspath(os.path.expanduser(other))


def _roots(run_dir: Path) -> list[str]:
    """Return the models that the stages of a run directory start from, by its record and its made recipes."""
    record = RunRecord(run_dir)
    recipes = [entry.get("recipe") or {} for entry in record.stages.values()]
    made = [path for pattern in ("*.yaml", f"*/{OWN_RECIPE}") for path in sorted(run_dir.glob(pattern))]
    recipes += [read_recipe(path) for path in made if _command_in(path) is not None]
    named = [str(recipe.get("model_name_or_path") or "random weights") for recipe in recipes]
    known = {*record.stages, *(path.stem for path in made), *(path.parent.name for path in made)}
    return [name for name in dict.fromkeys(named) if name not in known]


def command_of(
    stage: str, options: dict[str, Any], output_dir: str | None, seed: int | None, overrides: list[str]
) -> str:
    """Return the command in a normal form, by which its recipe is found again, however its options were spelled."""
    words = ["align", stage]
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            words += [f"--{name}"] if item is True else [f"--{name}", str(item)]
    words += ["--output_dir", output_dir] if output_dir else []
    words += [] if seed is None else ["--seed", str(seed)]
    words += [f"--{key}={write_yaml(value)}" for key, value in sorted(parse_overrides(overrides).items())]
    return redact_text(shlex.join(words)).replace("\n", "\\n")


def made_by(recipe: Path) -> str | None:
    """Return the command that a recipe was made by; None if there is no such recipe.

    Raises:
        UserError: the recipe was written by hand.
    """
    if not recipe.is_file():
        return None
    found = _command_in(recipe)
    if found is None:
        raise UserError(
            f"{recipe} is a recipe that no command made, and would be replaced",
            fix=f"align STAGE {recipe} runs it; or choose another --output_dir",
        )
    return found


def _command_in(recipe: Path) -> str | None:
    """Return the command in a recipe's header, if it has one."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix(COMMAND) for line in lines if line.startswith(COMMAND)), None)


def header(stage: str, place: Place, command: str) -> list[str]:
    """Return the lines at the top of a made recipe."""
    again = ["align", stage, str(place.recipe)]
    if place.folder != Path("runs") / place.recipe.parent.name / stage:
        again += ["--output_dir", str(place.folder)]
    return [
        f"Made by `align {stage}` without a recipe, from recipes/lora-1gpu. To keep and change: `run` reads this file.",
        "",
        f"run       {shlex.join(again)}".replace("\n", "\\n"),
        COMMAND.removeprefix("# ") + command,
    ]


def write(recipe: Path, text: str) -> None:
    """Write the recipe; an existing recipe, of another command, is kept under the next free number.

    The old recipe keeps its name until the new one takes it: a process that is killed leaves a recipe there.
    """
    recipe.parent.mkdir(parents=True, exist_ok=True)
    if recipe.is_file() and (before := recipe.read_bytes()) != text.encode():
        earlier = [recipe.with_stem(f"{recipe.stem}-{number}") for number in range(1, _first_free(recipe))]
        if not any(kept.read_bytes() == before for kept in earlier):
            kept = recipe.with_stem(f"{recipe.stem}-{_first_free(recipe)}")
            write_text(kept, before.decode())
            logger.info("the recipe that was at %s is kept as %s", recipe, kept)
    write_text(recipe, text)


def _first_free(recipe: Path) -> int:
    """Return the first number under which no earlier recipe is kept."""
    return next(n for n in itertools.count(1) if not recipe.with_stem(f"{recipe.stem}-{n}").exists())
