"""`align STAGE --model MODEL --data FILE [--lora]`: a stage without a recipe, which is made here and written down."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError, raise_all
from alignment.redaction import MASK, redact_text, redacted
from alignment.stages import DATA, STAGES

if TYPE_CHECKING:
    from alignment.cli.train.recipe_place import Place
    from alignment.pipeline.graph import Pipeline
    from alignment.pipeline.recipes.draft import Draft

logger = logging.getLogger(__name__)

# The stages of lora-1gpu.
WITHOUT_RECIPE = frozenset(name for name, facts in STAGES.items() if facts.data != "text" and facts.checkpoint != DATA)
OPTIONS = ("model", "data", "lora", "reward")
REPEATED = frozenset(OPTIONS) - {"model", "lora"}
# The keys that an option replaces, and those that it would otherwise be combined with.
REPLACED = {
    "model": ("model_name_or_path",),
    "data": ("dataset_name", "datasets"),
    "reward": ("reward_model_path", "reward_funcs", "reward_weights"),
}


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
    """Return the options as overrides of a recipe: its inputs, if it has them, else the keys that they mean."""
    from alignment.pipeline.recipes.packaged_recipes import find_recipe
    from alignment.pipeline.recipes.recipe import placeholders, read_recipe
    from alignment.pipeline.stage_spec import stage_keys
    from alignment.yaml_text import write_yaml

    path = find_recipe(args.recipe)
    inputs = placeholders(read_recipe(path)) if given(args) else set()
    words, options = [], given(args)
    for name in [name for name in options if name in inputs]:
        value = options.pop(name)
        words += [f"--{name}", write_yaml(value[0] if isinstance(value, list) and len(value) == 1 else value)]
    keys = recipe_keys(options)
    known = stage_keys(args.verb).names
    for key in [key for option in options if option in REPLACED for key in REPLACED[option] if key in known]:
        words += [f"--{key}", write_yaml(keys.get(key))]
    return words + (["--use_peft", "true"] if options.get("lora") else [])


def recipe_keys(options: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe keys for model, data and reward."""
    from alignment.models.checkpoints import is_path

    keys: dict[str, Any] = {}
    if "model" in options:
        model = str(options["model"])
        keys["model_name_or_path"] = os.path.expanduser(model) if model.startswith("~") else model
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


def load(args: argparse.Namespace) -> tuple[Pipeline, Callable[[], None] | None]:
    """Return the pipeline of a stage whose recipe is made from the options, or was made by the same command before.

    Returns:
        The pipeline, and what writes its recipe when the stage begins; None if the recipe is written already.
    """
    from alignment.cli.train.recipe_place import command_of, header, made_by, place_of, require_unclaimed, write
    from alignment.pipeline.recipes.draft import recipe_text

    options = _complete(args)
    place = place_of(args.verb, options["model"], args.output_dir, args.quick)
    command = command_of(args.verb, options, args.output_dir, args.seed, args.overrides)
    earlier = made_by(place.recipe)
    if earlier == command:
        logger.info("%s was written by the same command, and is used as it is", place.recipe)
        return _pipeline(args, None, place), None
    if not args.output_dir:
        require_unclaimed(place)
    if earlier is not None and not args.output_dir:
        _require_same_model(place, recipe_keys(options)["model_name_or_path"])
    made = make(args, options, place)
    text = recipe_text(header(args.verb, place, command), made)
    pipeline = _pipeline(args, made.recipe, place)
    if os.environ.get("RANK", "0") == "0":  # the main process of a launcher
        print(redact_text(f"{place.recipe}{' (not written: a dry run)' if args.dry_run else ''}:\n\n{text}"))
    return pipeline, partial(write, place.recipe, text)


def _require_same_model(place: Place, model: str) -> None:
    """Raise if the run directory is of another model with the same name."""
    from alignment.pipeline.recipes.recipe import read_recipe

    before = read_recipe(place.recipe).get("model_name_or_path")
    if place.parent is None and before != model and os.path.abspath(str(before)) != os.path.abspath(model):
        raise UserError(
            f"{place.recipe.parent} is the run directory of another model with this name",
            got=f"{model}; {place.recipe} has {before}",
            fix=f"--output_dir runs/ANOTHER-NAME/{place.folder.name}",
        )


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


def make(args: argparse.Namespace, options: dict[str, Any], place: Place) -> Draft:
    """Make the recipe: the user's keys, the settings of recipes/lora-1gpu, and what fits data and memory."""
    from alignment.models.checkpoints import is_adapter
    from alignment.pipeline.recipes.draft import BASE, draft
    from alignment.pipeline.recipes.overrides import parse_overrides, set_key
    from alignment.pipeline.recipes.packaged_recipes import packaged

    chosen: dict[str, Any] = {}
    for key, value in parse_overrides(args.overrides).items():
        set_key(chosen, key, value)
    own = recipe_keys(options)
    _refuse_secrets(options, chosen)
    _refuse_twice(options, chosen)
    continued = is_adapter(own["model_name_or_path"]) and chosen.get("adapter_mode") != "stack"
    lora = bool(options.get("lora") or chosen.get("use_peft")) and not continued
    _refuse_unused(args.verb, chosen, lora, continued)
    keys = own | ({"model_name_or_path": place.parent} if place.parent else {})
    made = draft(args.verb, packaged()[BASE], keys, new_adapter=lora, continued=continued, chosen=chosen)
    if args.seed is not None:
        made.recipe["seed"] = args.seed
    if continued:
        made.reasons["model_name_or_path"] = "an adapter, whose training continues"
    _fit(args, made, place)
    return made


def _refuse_secrets(options: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Raise for secrets, such as hub_token or a key in an address, which would be written to the recipe."""
    texts = {name: [value] if isinstance(value, str) else value for name, value in options.items() if value is not True}
    secret = [name for name, values in texts.items() if any(redact_text(text) != text for text in values)]
    secret += [key for key, value in chosen.items() if redacted(value, key) != value]
    if secret:
        raise UserError(
            f"--{secret[0]} would be written to the recipe",
            got=f"a secret ({MASK})",
            expected="no secrets in recipes",
            fix="set HF_TOKEN or the service's own variable in the environment",
        )


def _refuse_twice(options: dict[str, Any], chosen: dict[str, Any]) -> None:
    """Raise for options that are given as a recipe key, too."""
    twice = [
        (name, key) for name in options for key in REPLACED.get(name, ()) if key in chosen and key != "reward_weights"
    ]
    raise_all([UserError(f"--{name} and --{key} mean the same", fix="give one of them") for name, key in twice])


def _refuse_unused(stage: str, chosen: dict[str, Any], lora: bool, continued: bool) -> None:
    """Raise for settings of an adapter if no new adapter is trained."""
    unused = [key for key in chosen if key.startswith("lora_")] if not lora else []
    if unused:
        what = "the model is an adapter, whose training continues" if continued else "all weights are trained"
        fix = "--adapter_mode stack trains a new adapter on top" if continued else f"align {stage} ... --lora"
        raise UserError(f"--{unused[0]} has no effect: {what}", fix=fix)


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

    whole = argparse.Namespace(**vars(args) | {"quick": False})  # a smoke run's few rows and steps are not fitted to
    pipeline = _pipeline(whole, made.recipe, place)
    (spec,) = pipeline.stages
    parents = {name: pipeline.run_dir / name / "checkpoint" for name in spec.parents.values()}
    options = Options(RUN_SAMPLE, whole=False)
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
