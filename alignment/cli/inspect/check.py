"""`align check RECIPE`: validate stages, their data, and their predicted memory and time, before training."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignment.check.stage_check import StageCheck
    from alignment.errors import UserError
    from alignment.pipeline.graph import Pipeline

FOUND_ERRORS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe folder or stage file: tiny, tiny/sft.yaml")
    parser.add_argument("--stage", help="the stage of a recipe file (default: from pipeline.yaml or the file's name)")
    parser.add_argument("--offline", action="store_true", help="download nothing; note what is skipped for it")
    parser.add_argument("--output_dir", metavar="RUN_DIR", help="where to find finished parents (default: runs/NAME)")
    parser.add_argument("--samples", type=int, default=2, help="rows to print per stage (default: 2)")
    parser.add_argument("--sample", type=int, default=1000, help="rows to tokenize and check (default: 1000)")
    add_share_arguments(parser)
    parser.set_defaults(overrides=[])
    parser.epilog = """recipe keys, after RECIPE: as for `align run` (a folder) or `align STAGE` (a file)

exit code: 0 no errors, 1 errors found, 2 the recipe could not be read. Nothing is written."""


def add_share_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the share of rows that may be lost, which `align run` and `align STAGE` also have."""
    lost = {"max_truncated": "that max_length truncates", "max_dropped": "dropped for any single reason"}
    for name, what in lost.items():
        help = f"largest share of rows {what}, above which it is an error (default: 0.05)"
        parser.add_argument(f"--{name}", type=float, default=0.05, metavar="SHARE", help=help)


def main(args: argparse.Namespace) -> int:
    if args.offline:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # read when the libraries are imported
    from alignment.check.display import in_colour, show_findings, show_stage, summary
    from alignment.check.findings import has_errors
    from alignment.check.stage_check import merged, refused
    from alignment.pipeline.recipes.misspelt import suggest_options

    mistakes: dict[str, list[UserError]] = {}
    pipeline = load(args, mistakes)
    for errors in mistakes.values():
        errors[:] = [suggest_options(error, args.overrides, args.options) for error in errors]
    if all(mistakes.values()):  # nothing is left to check, with libraries that take seconds to import
        checks = [refused(spec, mistakes[spec.name]) for spec in pipeline.stages]
    else:
        checks = check(pipeline, mistakes, args)
    colour = in_colour(sys.stdout)
    print("\n\n".join(show_stage(check, args.samples, colour) for check in checks))
    found = merged(checks)
    if found:
        print("\n" + show_findings(found, colour))
    print("\n" + summary(checks))
    return FOUND_ERRORS if has_errors(found) else 0


def check(pipeline: "Pipeline", mistakes: "dict[str, list[UserError]]", args: argparse.Namespace) -> "list[StageCheck]":
    """Check the stages without mistakes in their keys."""
    from alignment.check.material import Options
    from alignment.check.run import check_stages
    from alignment.estimate.compute import this_device
    from alignment.pipeline.plan import remaining_checkpoints

    options = Options(args.sample, args.max_truncated, args.max_dropped, offline=args.offline)
    remaining = remaining_checkpoints(pipeline)
    return check_stages(pipeline, mistakes, remaining=remaining, options=options, device=this_device())


def load(args: argparse.Namespace, mistakes: "dict[str, list[UserError]]") -> "Pipeline":
    """Load the pipeline of a recipe folder, or of a recipe file."""
    from alignment.pipeline.graph import load_pipeline, load_stage
    from alignment.pipeline.recipes.packaged_recipes import locate_recipe
    from alignment.pipeline.recipes.recipe import read_mapping

    recipe = locate_recipe(args.recipe)
    if not recipe.is_file():
        if recipe.suffix in (".yaml", ".yml"):
            read_mapping(recipe)  # raises, and names a similar file
        return load_pipeline(recipe, args.overrides, args.output_dir, mistakes=mistakes)
    stage = stage_of(recipe, args.stage)
    place = str(Path(args.output_dir) / stage) if args.output_dir else None
    return load_stage(stage, recipe, args.overrides, place, mistakes=mistakes)


def stage_of(recipe: Path, given: str | None) -> str:
    """The stage of a recipe file: as given, from the pipeline.yaml in its folder, or from the file's name."""
    from alignment.errors import UserError
    from alignment.pipeline.recipes.pipeline_file import PIPELINE_FILE, read_settings, stage_files
    from alignment.stages import STAGES

    pipeline_file = recipe.parent / PIPELINE_FILE
    listed = stage_files(read_settings(recipe.parent), recipe.parent) if pipeline_file.is_file() else {}
    named = next((name for name, file in listed.items() if file.resolve() == recipe.resolve()), None)
    stage = given or named or recipe.stem
    if stage not in STAGES:
        raise UserError(
            f"{recipe}: the stage is not known",
            got=f"a file named {stage}" if given is None else f"--stage {stage}",
            expected=f"one of {', '.join(STAGES)}",
            fix="--stage NAME",
        )
    return stage
