"""`align STAGE RECIPE`: run one stage, and record it in its run directory as `align run` does."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from alignment.cli.inspect.check import add_share_arguments
from alignment.cli.train import one_line
from alignment.cli.train.one_line import WITHOUT_RECIPE

if TYPE_CHECKING:
    from alignment.pipeline.graph import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    stage = parser.prog.split()[-1]
    example = f"a recipe file: tiny/{stage}.yaml, or a path"
    parser.add_argument("recipe", metavar="RECIPE", nargs="?" if stage in WITHOUT_RECIPE else None, help=example)
    if stage in WITHOUT_RECIPE:
        one_line.add_arguments(parser, stage)
    parser.add_argument("--output_dir", metavar="DIR", help="the stage's folder (default: runs/RECIPE_FOLDER/STAGE)")
    parser.add_argument("--seed", type=int, help="the training seed, if the recipe sets none")
    parser.add_argument("--fresh", action="store_true", help="start over, even if the stage is finished or interrupted")
    parser.add_argument("--max-time", metavar="2h30m", help="save and stop after this time; repeat to resume")
    parser.add_argument("--dry-run", action="store_true", help="check all, print plan, rows and memory; write nothing")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two steps")
    parser.add_argument("--no-check", action="store_true", help="skip the checks of `align check`")
    parser.add_argument("--no-self-check", action="store_true", help="skip the checks of loss and masks before step 1")
    add_share_arguments(parser)
    parser.set_defaults(overrides=[])
    parser.epilog = """recipe keys, after RECIPE:
  --key value     replaces the recipe's value: --learning_rate 1e-3; dotted keys nest: --a.b 1

A parent given as a stage name is looked up in the folder that holds DIR. With several processes:
  accelerate launch --num_processes 2 -m align STAGE RECIPE"""


def main(args: argparse.Namespace) -> int:
    from alignment.pipeline.stopping import parse_duration

    max_seconds = parse_duration(args.max_time)
    pipeline, begin = load(args)
    return run(pipeline, begin, max_seconds, args)


def load(args: argparse.Namespace) -> "tuple[Pipeline, Callable[[], None] | None]":
    """Return the pipeline of the stage, from its recipe or, without a recipe, from the model and data.

    Returns:
        The pipeline, and what to call when the stage begins, if anything.
    """
    from alignment.pipeline.graph import load_stage, without_self_check

    begin = None
    if args.recipe is None:
        pipeline, begin = one_line.load(args)
    else:
        overrides = [*one_line.as_overrides(args), *args.overrides]
        pipeline = load_stage(args.verb, args.recipe, overrides, args.output_dir, args.seed, quick=args.quick)
    return (without_self_check(pipeline) if args.no_self_check else pipeline), begin


def run(
    pipeline: "Pipeline", begin: "Callable[[], None] | None", max_seconds: float | None, args: argparse.Namespace
) -> int:
    """Run the stage, whose recipe is sound; only now the libraries that train are imported."""
    from functools import partial

    from alignment.callbacks.processes import launched
    from alignment.check.run import check_before_run
    from alignment.cli.train.smoke_runs import require_no_real_result
    from alignment.pipeline.launch import run_stage_together
    from alignment.pipeline.runner import run_pipeline
    from alignment.pipeline.stopping import stopping

    if args.quick:
        require_no_real_result(pipeline, alone=True)
    limits = (args.max_truncated, args.max_dropped, args.quick)
    checked = partial(check_before_run, *limits, show=args.dry_run, as_options=args.recipe is None)
    check = None if args.no_check else checked
    runs = run_stage_together if launched() > 1 else run_pipeline
    with stopping(pipeline.run_dir, max_seconds, fresh=args.fresh):
        runs(pipeline, fresh=args.fresh, dry_run=args.dry_run, check=check, begin=begin)
    return 0
