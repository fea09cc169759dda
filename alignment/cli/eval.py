"""`align eval`: run eval suites on a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "run eval suites on a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a model or adapter, or a hub id")
    parser.add_argument(
        "--suite",
        action="append",
        required=True,
        help="a suite's name (tinyworld, tinyworld_gold, tinyworld_bpb), the path of lm-eval YAML, or lm_eval:TASK; "
        "may be given several times",
    )
    parser.add_argument("--format", choices=["plain", "chat", "both"], default="both", help="default: both")
    parser.add_argument("--output_dir", help="folder of the runs; default: RUN/evals of the checkpoint's run directory")
    parser.add_argument("--num_fewshot", type=int, help="examples before each item; default: the suite's own number")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--limit", type=int, help="only the first items of each task")
    parser.add_argument("--seed", type=int, default=0, help="draws few-shot examples and sampled replies")
    parser.add_argument(
        "--suite_args", type=json.loads, default={}, help="""options of the suite's data, as JSON: '{"people": 48}'"""
    )


def main(args: argparse.Namespace) -> int:
    from eval.runner import evaluate_many
    from eval.table import eval_table

    stage, parent, folder = place(args.checkpoint)
    records = evaluate_many(
        args.checkpoint,
        args.suite,
        ["plain", "chat"] if args.format == "both" else [args.format],
        args.output_dir or folder,
        stage=stage,
        parent=parent,
        num_fewshot=args.num_fewshot,
        batch_size=args.batch_size,
        limit=args.limit,
        seed=args.seed,
        suite_args=args.suite_args,
    )
    print(eval_table(records))
    print(f"written to {args.output_dir or folder}")
    return 0


def place(checkpoint: str) -> tuple[str, str | None, Path]:
    """(stage, parent's stage, folder for the runs) of a checkpoint: from its run directory, else after its own name."""
    path = Path(checkpoint).resolve()
    if path.name != "checkpoint":
        return path.name, None, Path("runs/evals")
    stage_file = path.parent / "stage.json"
    parent = json.loads(stage_file.read_text(encoding="utf-8")).get("parent") if stage_file.exists() else None
    return path.parent.name, parent, path.parent.parent / "evals"
