"""`align eval`: run eval suites on a checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a model or adapter, or a hub id")
    parser.add_argument(
        "--suite",
        action="append",
        required=True,
        help="a suite's name (docs/suites.md), the path of lm-eval YAML, of a folder or of a file of held-out rows "
        "(questions, or rows as SFT trains on), or lm_eval:TASK; options follow as gsm8k?data=FILE&num_fewshot=0; "
        "repeatable",
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
    add_asking_arguments(parser)


def add_asking_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of how items are asked, of every verb that runs suites."""
    parser.add_argument(
        "--columns",
        metavar="MAPPING",
        help="for a --suite that is a file: its columns -> recognised columns, as the recipe key `columns`: "
        "'{Frage: question, Antwort: answer}'",
    )
    parser.add_argument(
        "--chat_template",
        metavar="FROM",
        help="ask in this chat template instead of the checkpoint's own: a .jinja file, or the folder or hub id of "
        "another checkpoint or adapter",
    )
    parser.add_argument(
        "--too_long",
        choices=["skip", "refuse"],
        default="skip",
        help="items that do not fit into the model's context: leave them out of the scores and count them (default), "
        "or refuse the suite",
    )


def require_chat(chat_template: str | None, format: str | None) -> None:
    """Raise for a chat template without the chat format."""
    from alignment.errors import UserError

    if chat_template and format == "plain":
        raise UserError(
            "--chat_template applies to the chat format", got="--format plain", fix="use --format chat or both"
        )


def main(args: argparse.Namespace) -> int:
    from eval.comparison.commonest import commonest_lines
    from eval.comparison.table import eval_table, stored_line
    from eval.conditions.said_once import said_once
    from eval.harness.place import place_of
    from eval.harness.run_suite import evaluate_many
    from eval.harness.store import load_run
    from eval.harness.with_base import evaluate_with_base
    from eval.suite_rows.column_mapping import with_columns

    require_chat(args.chat_template, args.format)
    suites = with_columns(args.suite, args.columns)
    place = place_of(args.checkpoint)
    if args.output_dir:
        place = replace(place, folder=Path(args.output_dir))
    own = variant_of(vars(args), place.seed)
    formats = ["plain", "chat"] if args.format == "both" else [args.format]
    options: dict[str, Any] = {"seed": place.seed} | own | {"batch_size": args.batch_size, "variant": own}
    options |= {"chat_template": args.chat_template, "too_long": args.too_long}
    if args.with_base:
        base_place = replace(place_of(base_of(args.checkpoint)), folder=place.folder)
        if base_place.stage == place.stage:  # both runs would have the same name
            base_place = replace(base_place, stage=f"{place.stage}-base")
        with said_once():
            records = evaluate_with_base(args.checkpoint, suites, formats, place, base_place, **options)
    else:
        options |= {"stage": place.stage, "parent": place.parent}
        records = evaluate_many(args.checkpoint, suites, formats, place.folder, **options)
    print(eval_table(records))
    runs = [load_run(place.folder / record["run_id"]) for record in records]
    for line in [*commonest_lines(runs), f"written to {place.folder}; {stored_line([run.path for run in runs])}"]:
        print(line)
    return 0


def variant_of(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the options that set a run apart from others of its stage, suite and format.

    Args:
        seed: the run directory's, which is no variant.
    """
    own = {key: options.get(key) for key in ("num_fewshot", "limit", "seed", "suite_args")}
    return {key: value for key, value in own.items() if value not in (None, {}) and (key, value) != ("seed", seed)}


def base_of(checkpoint: str) -> str:
    """An adapter's base; any other checkpoint itself, which `evaluate_with_base` then refuses."""
    from alignment.models.checkpoints import adapter_base, is_adapter

    return adapter_base(checkpoint) if is_adapter(checkpoint) else checkpoint
