"""`align STAGE --model MODEL --data FILE [--lora]`: a stage without a recipe, which is made here and written down."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.durable.atomic import write_text
from alignment.errors import UserError, raise_all
from alignment.redaction import MASK, redact_text, redacted
from alignment.stages import STAGES

if TYPE_CHECKING:
    from alignment.pipeline.graph import Pipeline
    from alignment.pipeline.recipes.draft import Draft

logger = logging.getLogger(__name__)

WITHOUT_RECIPE = frozenset(name for name, facts in STAGES.items() if facts.data != "text")  # those of lora-1gpu
OPTIONS = ("model", "data", "lora", "reward")
COMMAND = "# command   "


def add_arguments(parser: argparse.ArgumentParser, stage: str) -> None:
    """Add the options that replace a recipe."""
    group = parser.add_argument_group(
        "without a recipe",
        "The settings are those of recipes/lora-1gpu, fitted to the memory of this machine, written to "
        "runs/NAME/STAGE.yaml and printed. With a recipe, --model, --data and --reward replace its keys.",
    )
    group.add_argument("--model", help="a base model, a checkpoint or an adapter to continue: a folder or hub id")
    group.add_argument("--data", action="append", metavar="FILE", help="a file, folder or data set; may be repeated")
    group.add_argument("--lora", action="store_true", help="train a LoRA adapter instead of all weights")
    if STAGES[stage].samples:
        what = "a reward model (folder or hub id), or a function: reward_models.rules:answer_match?column=answer"
        group.add_argument("--reward", action="append", metavar="REWARD", help=what)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options without a recipe that were given."""
    return {name: value for name in OPTIONS if (value := getattr(args, name, None))}


def as_overrides(args: argparse.Namespace) -> list[str]:
    """Return the options as overrides of a recipe: its inputs, if it declares them, else the keys that they mean."""
    from alignment.pipeline.recipes.packaged_recipes import find_recipe
    from alignment.pipeline.recipes.pipeline_file import PIPELINE_FILE, read_settings
    from alignment.yaml_text import write_yaml

    source = find_recipe(args.recipe).parent / PIPELINE_FILE
    inputs = read_settings(source.parent).inputs if source.is_file() else {}
    words, options = [], given(args)
    for name in [name for name in options if name in inputs]:
        value = options.pop(name)
        words += [f"--{name}", write_yaml(value[0] if isinstance(value, list) and len(value) == 1 else value)]
    for key, value in recipe_keys(options).items():
        words += [f"--{key}", write_yaml(value)]
    return words + (["--use_peft", "true"] if options.get("lora") else [])


def recipe_keys(options: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe keys for model, data and reward."""
    from alignment.models.checkpoints import is_path

    keys: dict[str, Any] = {}
    if "model" in options:
        keys["model_name_or_path"] = options["model"]
    data = options.get("data", [])
    if len(data) == 1:
        keys["dataset_name"] = data[0]
    elif data:
        keys["datasets"] = [{"name": name} for name in data]
    functions = [name for name in options.get("reward", []) if ":" in name and not is_path(name)]
    models = [name for name in options.get("reward", []) if name not in functions]
    if len(models) > 1:
        raise UserError(
            "--reward names several reward models", got=", ".join(models), expected="one; and any functions"
        )
    if models:
        keys["reward_model_path"] = models[0]
    return keys | ({"reward_funcs": functions} if functions else {})


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
        """The recipe's file."""
        return self.folder.with_name(f"{self.folder.name}.yaml")


def place_of(stage: str, model: str, output_dir: str | None) -> Place:
    """Return the place: the run directory that the model comes from, or a new one with the model's name."""
    trained = Path(model).expanduser()
    stage_folder = trained.parent if trained.name == "checkpoint" else trained
    within = stage_folder if (stage_folder / "stage.json").is_file() else None
    if output_dir:
        folder = Path(output_dir)
    elif within:
        folder = within.parent / stage
    else:
        name = re.sub(r"[^\w.-]+", "-", Path(os.path.abspath(trained) if trained.is_dir() else model).name).strip("-.")
        folder = Path("runs") / (name or "model") / stage
    same = within is not None and within.parent.resolve() == folder.parent.resolve()
    return Place(folder, within.name if same and within and within.name != folder.name else None)


def load(args: argparse.Namespace) -> Pipeline:
    """Return the pipeline of a stage whose recipe is made from the options, or was made by the same command before."""
    from alignment.pipeline.recipes.draft import recipe_text

    options = _complete(args)
    place = place_of(args.verb, options["model"], args.output_dir)
    command = _command(args, options)
    if _made_by(place.recipe) == command:
        logger.info("%s was written by the same command, and is used as it is", place.recipe)
        return _pipeline(args, None, place)
    made = make(args, options, place)
    text = recipe_text(_header(args.verb, place, command), made)
    pipeline = _pipeline(args, made.recipe, place)
    if os.environ.get("RANK", "0") == "0":  # the main process of a launcher
        print(redact_text(f"{place.recipe}:\n\n{text}"))
        if not args.dry_run:
            write(place.recipe, text)
    return pipeline


def _header(stage: str, place: Place, command: str) -> list[str]:
    again = ["align", stage, str(place.recipe)]
    if place.folder != Path("runs") / place.recipe.parent.name / stage:
        again += ["--output_dir", str(place.folder)]
    return [
        f"Made by `align {stage}` without a recipe, from recipes/lora-1gpu. To keep and change: `run` reads this file.",
        "",
        f"run       {shlex.join(again)}",
        COMMAND.removeprefix("# ") + command,
    ]


def _complete(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options; raise for all that are missing."""
    options, verb = given(args), args.verb
    missing = [name for name in ("model", "data") if name not in options]
    rewarded = STAGES[verb].samples
    if rewarded and not options.get("reward"):
        missing.append("reward")
    if not options:
        raise UserError(
            f"align {verb} needs a recipe, or a model and data",
            expected=f"align {verb} RECIPE, or align {verb} --model MODEL --data FILE",
            fix=f"align {verb} recipes/tiny/{verb}.yaml runs the demo's; `align {verb} --help` lists the options",
        )
    raise_all(
        [
            UserError(
                f"align {verb} without a recipe needs --{name}",
                expected=f"align {verb} RECIPE, or align {verb} --model MODEL --data FILE"
                + (" --reward REWARD" if rewarded else ""),
            )
            for name in missing
        ]
    )
    return options


def _command(args: argparse.Namespace, options: dict[str, Any]) -> str:
    """Return the command in a normal form, by which its recipe is found again: what changes the recipe, no more."""
    words = ["align", args.verb]
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            words += [f"--{name}"] if item is True else [f"--{name}", str(item)]
    words += [] if args.seed is None else ["--seed", str(args.seed)]
    return redact_text(shlex.join([*words, *args.overrides]))


def _made_by(recipe: Path) -> str | None:
    """Return the command that a recipe was made by; None if there is no such recipe."""
    if not recipe.is_file():
        return None
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix(COMMAND) for line in lines if line.startswith(COMMAND)), None)


def make(args: argparse.Namespace, options: dict[str, Any], place: Place) -> Draft:
    """Make the recipe: the user's keys, the settings of recipes/lora-1gpu, and what fits data and memory."""
    from alignment.models.checkpoints import is_adapter
    from alignment.pipeline.recipes.draft import BASE, draft
    from alignment.pipeline.recipes.overrides import parse_overrides, set_key
    from alignment.pipeline.recipes.packaged_recipes import packaged

    chosen: dict[str, Any] = {}
    for key, value in parse_overrides(args.overrides).items():
        set_key(chosen, key, value)
    _refuse_secrets(chosen)
    continued = is_adapter(options["model"])
    lora = bool(options.get("lora")) and not continued
    keys = recipe_keys(options) | ({"model_name_or_path": place.parent} if place.parent else {})
    made = draft(args.verb, packaged()[BASE], keys, new_adapter=lora, continued=continued, chosen=chosen)
    if args.seed is not None:
        made.recipe["seed"] = args.seed
    if continued:
        made.reasons["model_name_or_path"] = "an adapter, whose training continues"
    _fit(args, made, place)
    return made


def _refuse_secrets(chosen: dict[str, Any]) -> None:
    """Raise for keys such as hub_token, which would be written to the recipe."""
    secret = [key for key, value in chosen.items() if redacted(value, key) == MASK != value]
    if secret:
        raise UserError(
            f"--{secret[0]} would be written to the recipe",
            got="a secret",
            expected="no secrets in recipes",
            fix="set HF_TOKEN in the environment, or run `hf auth login` once",
        )


def _fit(args: argparse.Namespace, made: Draft, place: Place) -> None:
    """Fit the draft to data and memory.

    Raises:
        UserError: its rows or models cannot be read.
    """
    from alignment.check.fitting import fit
    from alignment.check.material import Options
    from alignment.check.run import RUN_SAMPLE, inspect_stage, raise_errors
    from alignment.check.stage_check import StageCheck
    from alignment.estimate.compute import this_device
    from alignment.pipeline.recipes.draft import QUANTISED
    from alignment.pipeline.recipes.packaged_recipes import packaged

    pipeline = _pipeline(args, made.recipe, place)
    (spec,) = pipeline.stages
    parents = {name: pipeline.run_dir / name / "checkpoint" for name in spec.parents.values()}
    options = Options(RUN_SAMPLE, args.max_truncated, args.max_dropped, whole=False)
    material, findings = inspect_stage(spec, pipeline.run_dir, {spec.name: spec.recipe}, parents, options)
    if material is None or material.origin.model is None:
        named = [finding.for_stage(spec.name) for finding in findings]
        raise_errors([StageCheck(spec.name, str(place.recipe), named, material, [])])
        return
    device = this_device(measure=False)
    fit(
        made,
        material,
        device,
        lambda recipe: replace(spec, recipe={**spec.recipe, **recipe}).configs(pipeline.run_dir),
        packaged()[QUANTISED],
    )


def _pipeline(args: argparse.Namespace, recipe: dict[str, Any] | None, place: Place) -> Pipeline:
    """Return the pipeline of the stage, from the recipe, or from the file if it is None."""
    from alignment.pipeline.graph import load_stage

    return load_stage(args.verb, place.recipe, (), place.folder, args.seed, quick=args.quick, recipe=recipe)


def write(recipe: Path, text: str) -> None:
    """Write the recipe; an existing recipe, of another command, is renamed to the next free number."""
    recipe.parent.mkdir(parents=True, exist_ok=True)
    if recipe.is_file() and recipe.read_text(encoding="utf-8") != text:
        number = next(n for n in itertools.count(1) if not recipe.with_stem(f"{recipe.stem}-{n}").exists())
        kept = recipe.rename(recipe.with_stem(f"{recipe.stem}-{number}"))
        logger.info("the recipe that was at %s is kept as %s", recipe, kept)
    write_text(recipe, text)
