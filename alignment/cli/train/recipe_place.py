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

from alignment.durable.atomic import write_text
from alignment.errors import UserError
from alignment.pipeline.recipes.overrides import parse_overrides
from alignment.pipeline.records.previous import OWN_RECIPE
from alignment.pipeline.records.record import FILE
from alignment.redaction import redact_text
from alignment.yaml_text import write_yaml

logger = logging.getLogger(__name__)

COMMAND = "# command   "


@dataclass(frozen=True)
class Place:
    """Where a stage without a recipe is written.

    Attributes:
        folder: the stage's folder, in the run directory.
        parent: the stage of the same run directory that the model is the checkpoint of, if it is one.
    """

    folder: Path
    parent: str | None

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

    A smoke run of a new model has a run directory of its own, so that it never takes the place of a real run.

    Raises:
        UserError: `output_dir` has no name.
    """
    trained = Path(model).expanduser()
    stage_folder = trained.parent if trained.name == "checkpoint" else trained
    within = stage_folder if (stage_folder / "stage.json").is_file() else None
    if output_dir:
        folder = _named(Path(output_dir))
    elif within:
        folder = within.parent / (stage if stage != within.name.rstrip("0123456789") else _next(within.name))
    else:
        name = re.sub(r"[^\w.-]+", "-", Path(os.path.abspath(trained) if trained.is_dir() else model).name).strip("-.")
        folder = Path("runs") / ((name or "model") + ("-quick" if quick else "")) / stage
    same = within is not None and within.parent.resolve() == folder.parent.resolve()
    return Place(folder, within.name if same and within and within.name != folder.name else None)


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
    stem = name.rstrip("0123456789")
    return f"{stem}{int(name[len(stem) :] or 1) + 1}"


def require_unclaimed(place: Place) -> None:
    """Raise if the place, which the user has not named, is that of a stage that another recipe made."""
    if (place.folder / "stage.json").is_file() and not place.recipe.is_file():
        name = place.folder.parent.name
        raise UserError(
            f"{place.folder} is the result of another recipe, and would be replaced",
            fix=f"--output_dir runs/{name}-mine/{place.folder.name}, or another folder",
        )


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
    lines = recipe.read_text(encoding="utf-8").splitlines()
    found = next((line.removeprefix(COMMAND) for line in lines if line.startswith(COMMAND)), None)
    if found is None:
        raise UserError(
            f"{recipe} is a recipe that no command made, and would be replaced",
            fix=f"align STAGE {recipe} runs it; or choose another --output_dir",
        )
    return found


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
    """Write the recipe; an existing recipe, of another command, is renamed to the next free number."""
    recipe.parent.mkdir(parents=True, exist_ok=True)
    if recipe.is_file() and recipe.read_text(encoding="utf-8") != text:
        number = next(n for n in itertools.count(1) if not recipe.with_stem(f"{recipe.stem}-{n}").exists())
        kept = recipe.rename(recipe.with_stem(f"{recipe.stem}-{number}"))
        logger.info("the recipe that was at %s is kept as %s", recipe, kept)
    write_text(recipe, text)
