"""`align eval`: run eval suites on a checkpoint."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a model or adapter, or a hub id")
    parser.add_argument(
        "--suite",
        action="append",
        required=True,
        help="a suite's name (docs/suites.md), the path of lm-eval YAML, of a folder or of a JSONL file of questions, "
        "or lm_eval:TASK; options follow as gsm8k?data=FILE&num_fewshot=0; repeatable",
    )
    parser.add_argument("--with-base", action="store_true", help="also evaluate the adapter's base, from the same load")
    parser.add_argument("--format", choices=["plain", "chat", "both"], default="both", help="default: both")
    parser.add_argument(
        "--output_dir", help="folder of the eval runs; default: RUN/evals in the checkpoint's run directory"
    )
    parser.add_argument("--num_fewshot", type=int, help="examples before each item; default: the suite's own number")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--limit", type=int, help="items per task, from the first")
    parser.add_argument(
        "--seed", type=int, help="seed of few-shot examples and sampled replies; default: the run directory's, or 0"
    )
    parser.add_argument(
        "--suite_args", type=json.loads, help="""options of the suite's data, as JSON: '{"split": "validation"}'"""
    )


def main(args: argparse.Namespace) -> int:
    from eval.comparison.table import eval_table
    from eval.harness.place import place_of
    from eval.harness.run_suite import evaluate_many
    from eval.harness.with_base import evaluate_with_base

    place = place_of(args.checkpoint)
    if args.output_dir:
        place = replace(place, folder=Path(args.output_dir))
    own = {key: getattr(args, key) for key in ("num_fewshot", "limit", "seed", "suite_args")}
    own = {key: value for key, value in own.items() if value not in (None, {})}
    if own.get("seed") == place.seed:
        del own["seed"]
    formats = ["plain", "chat"] if args.format == "both" else [args.format]
    options: dict[str, Any] = {"seed": place.seed} | own | {"batch_size": args.batch_size, "variant": own}
    if args.with_base:
        base_place = replace(place_of(base_of(args.checkpoint)), folder=place.folder)
        records = evaluate_with_base(args.checkpoint, args.suite, formats, place, base_place, **options)
    else:
        options |= {"stage": place.stage, "parent": place.parent}
        records = evaluate_many(args.checkpoint, args.suite, formats, place.folder, **options)
    print(eval_table(records))
    print(f"written to {place.folder}")
    return 0


def base_of(checkpoint: str) -> str:
    """An adapter's base; any other checkpoint itself, which `evaluate_with_base` then refuses."""
    from alignment.models.checkpoints import adapter_base, is_adapter

    return adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint
