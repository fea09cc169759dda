"""`align run RECIPE_DIR`: run every stage of a recipe folder, evaluations between them, and a report at the end."""

import argparse
from typing import TYPE_CHECKING

from alignment.cli.inspect.check import add_share_arguments
from alignment.errors import UserError

if TYPE_CHECKING:
    from alignment.pipeline.graph import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "recipe_dir", metavar="RECIPE_DIR", help="a folder with pipeline.yaml, or a packaged recipe: tiny"
    )
    parser.add_argument("--output_dir", metavar="RUN_DIR", help="the run directory (default: runs/NAME)")
    parser.add_argument("--seed", type=int, help="the seed of every stage whose recipe sets none")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--fresh", action="store_true", help="start over: rerun finished and interrupted stages")
    parser.add_argument("--max-time", metavar="2h30m", help="save and stop after this time; repeat to resume")
    parser.add_argument("--dry-run", action="store_true", help="check all, print plan, rows and memory; write nothing")
    parser.add_argument("--quick", action="store_true", help="a smoke run: two steps per stage")
    parser.add_argument("--no-check", action="store_true", help="skip the checks of `align check`")
    parser.add_argument("--no-self-check", action="store_true", help="skip the checks of loss and masks before step 1")
    add_share_arguments(parser)
    parser.set_defaults(overrides=[])
    parser.epilog = """recipe keys, after RECIPE_DIR:
  --STAGE.key value     a key of a stage's recipe: --sft.learning_rate 1e-3
  --evals.key value     a key of the evaluations: --evals.limit 100
  --INPUT value         an input that pipeline.yaml declares

A finished stage is skipped if its recipe, data files and parents are unchanged. An interrupted stage resumes from its
newest step checkpoint (--dry-run shows which). A stage that is rerun is first moved to RUN_DIR/previous/STAGE-N;
nothing is deleted (docs/reliability.md explains how to prune)."""


def main(args: argparse.Namespace) -> int:
    from alignment.callbacks.processes import launched
    from alignment.pipeline.graph import load_pipeline, without_self_check
    from alignment.pipeline.stopping import parse_duration

    if (processes := launched()) > 1:
        raise UserError(
            "align run needs a single process",
            got=f"{processes} processes of a launcher",
            fix="launch the stages one by one: accelerate launch -m align STAGE RECIPE",
        )
    max_seconds = parse_duration(args.max_time)
    pipeline = load_pipeline(args.recipe_dir, args.overrides, args.output_dir, args.seed, quick=args.quick)
    return run(without_self_check(pipeline) if args.no_self_check else pipeline, max_seconds, args)


def run(pipeline: "Pipeline", max_seconds: float | None, args: argparse.Namespace) -> int:
    """Run a pipeline whose recipes are sound; only now the libraries that train are imported."""
    from functools import partial

    from alignment.check.run import check_before_run
    from alignment.cli.train.smoke_runs import require_no_real_result
    from alignment.pipeline.runner import run_pipeline
    from alignment.pipeline.stopping import stopping
    from alignment.report import write_report

    if args.quick:
        require_no_real_result(pipeline, alone=False, until=args.until)
    limits = (args.max_truncated, args.max_dropped, args.quick)
    check = None if args.no_check else partial(check_before_run, *limits, show=args.dry_run)
    with stopping(pipeline.run_dir, max_seconds, fresh=args.fresh):
        run_pipeline(
            pipeline, until=args.until, fresh=args.fresh, dry_run=args.dry_run, check=check, write_report=write_report
        )
    return 0
