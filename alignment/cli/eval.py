"""`align eval`: run eval suites on a checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a model or adapter, or a hub id")
    parser.add_argument(
        "--suite",
        action="append",
        required=True,
        help="a suite's name (docs/suites.md), the path of lm-eval YAML, of a folder or of a JSONL file of questions, "
        "or lm_eval:TASK; with options as gsm8k?data=FILE&num_fewshot=0; may be given several times",
    )
    parser.add_argument("--with-base", action="store_true", help="score an adapter's base too, from the same load")
    parser.add_argument("--format", choices=["plain", "chat", "both"], default="both", help="default: both")
    parser.add_argument("--output_dir", help="folder of the runs; default: RUN/evals of the checkpoint's run directory")
    parser.add_argument("--num_fewshot", type=int, help="examples before each item; default: the suite's own number")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--limit", type=int, help="only the first items of each task")
    parser.add_argument(
        "--seed", type=int, help="draws few-shot examples and sampled replies; default: the run directory's, else 0"
    )
    parser.add_argument(
        "--suite_args", type=json.loads, help="""options of the suite's data, as JSON: '{"split": "validation"}'"""
    )


def main(args: argparse.Namespace) -> int:
    from eval.runner import evaluate_many, evaluate_with_base
    from eval.table import eval_table

    stage, parent, folder, seed = place(args.checkpoint)
    own = {key: getattr(args, key) for key in ("num_fewshot", "limit", "seed", "suite_args")}
    own = {key: value for key, value in own.items() if value not in (None, {})}
    if own.get("seed") == seed:
        del own["seed"]
    run, sides = evaluate_many, {"stage": stage, "parent": parent}
    if args.with_base:
        base_stage, base_parent, *_ = place(base_of(args.checkpoint))
        run, sides = evaluate_with_base, sides | {"base_stage": base_stage, "base_parent": base_parent}
    records = run(
        args.checkpoint,
        args.suite,
        ["plain", "chat"] if args.format == "both" else [args.format],
        args.output_dir or folder,
        batch_size=args.batch_size,
        variant=own,
        **sides,
        **{"seed": seed} | own,
    )
    print(eval_table(records))
    print(f"written to {args.output_dir or folder}")
    return 0


def base_of(checkpoint: str) -> str:
    """An adapter's base; what is no adapter stands for itself, and the run says so."""
    from alignment.models.checkpoints import adapter_base, is_adapter

    return adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint


def place(checkpoint: str) -> tuple[str, str | None, Path, int]:
    """(stage, parent's stage, folder for the runs, seed) of a checkpoint: its run directory's, else after its name."""
    path = Path(checkpoint).resolve()
    if path.name != "checkpoint":
        return path.name, None, Path("runs/evals"), 0
    run_dir = path.parents[1]
    parent = read_key(path.parent / "stage.json", "parent")
    seed = read_key(run_dir / "pipeline.json", "seed") or 0
    return path.parent.name, parent, run_dir / "evals", seed


def read_key(file: Path, key: str) -> Any:
    """A key of a JSON file; None where there is no such file or key."""
    from alignment.durable.read import read_json

    return read_json(file).get(key) if file.exists() else None
