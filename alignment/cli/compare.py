"""`align compare`: a paired comparison of two evaluated checkpoints."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    places = "an eval run's folder, or a checkpoint RUN/STAGE/checkpoint whose runs are in RUN/evals"
    parser.add_argument("a", help=f"before: {places}")
    parser.add_argument("b", help="after: likewise; differences are b - a")
    parser.add_argument("--suite", help="only this suite; default: all that both have")


def main(args: argparse.Namespace) -> int:
    from eval.compare import compare_found
    from eval.table import compare_table

    print(compare_table(compare_found(args.a, args.b, args.suite)))
    return 0
