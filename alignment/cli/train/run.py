"""`align run RECIPE_DIR`: every stage of a recipe folder, with evaluations between them and a report at the end."""

import argparse

from alignment.cli.inspect.check import add_share_arguments
from alignment.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe_dir", metavar="RECIPE_DIR", help="a folder with pipeline.yaml, such as recipes/tiny")
    parser.add_argument("--output_dir", metavar="RUN_DIR", help="where to write (default: runs/NAME)")
    parser.add_argument("--seed", type=int, help="the seed of every stage that sets none of its own")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--fresh", action="store_true", help="start over: run finished and interrupted stages anew")
    parser.add_argument("--max-time", metavar="2h30m", help="stop after this time, saved, to go on by the same command")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the plan; write nothing")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two steps a stage, to see that all works")
    parser.add_argument("--no-check", action="store_true", help="run without the pre-flight that `align check` shows")
    parser.add_argument("--no-self-check", action="store_true", help="train without proving the stage's plumbing first")
    add_share_arguments(parser)
    parser.set_defaults(overrides=[])
    parser.epilog = """recipe keys, after RECIPE_DIR:
  --STAGE.key value     a key of a stage's recipe: --sft.learning_rate 1e-3
  --evals.key value     a key of the evaluations: --evals.limit 100
  --INPUT value         an input that pipeline.yaml lists

A finished stage whose recipe, data files and parents are unchanged is skipped, and an interrupted one goes on from its
newest step checkpoint (--dry-run says where). One that runs again is first moved to RUN_DIR/previous/STAGE-N; nothing
is deleted (docs/reliability.md says how to prune)."""


def main(args: argparse.Namespace) -> int:
    from functools import partial

    from alignment.callbacks.processes import launched
    from alignment.check.run import check_before_run
    from alignment.pipeline.graph import load_pipeline, without_self_check
    from alignment.pipeline.runner import run_pipeline
    from alignment.pipeline.stopping import seconds, stopping
    from alignment.report import write_report

    if (processes := launched()) > 1:
        raise UserError(
            "align run is one process",
            got=f"{processes} processes of a launcher",
            fix="launch the stages one by one: accelerate launch -m align STAGE RECIPE",
        )
    max_seconds = seconds(args.max_time)
    pipeline = load_pipeline(args.recipe_dir, args.overrides, args.output_dir, args.seed, quick=args.quick)
    if args.no_self_check:
        pipeline = without_self_check(pipeline)
    check = None if args.no_check else partial(check_before_run, args.max_truncated, args.max_dropped, args.quick)
    with stopping(pipeline.run_dir, max_seconds):
        run_pipeline(
            pipeline, until=args.until, fresh=args.fresh, dry_run=args.dry_run, check=check, write_report=write_report
        )
    return 0
