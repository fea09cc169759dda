"""`align eval`: run eval suites on a checkpoint, or on a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

BATCH_SIZE = 64  # rows
ENDPOINT_ONLY = ("model", "api_key_env", "timeout")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", nargs="?", help="folder of a model or adapter, or a hub id; omitted with --endpoint"
    )
    parser.add_argument(
        "--suite",
        action="append",
        required=True,
        help="a suite's name (docs/suites.md), the path of lm-eval YAML, of a folder or of a file of held-out rows "
        "(questions, or rows as SFT trains on), or lm_eval:TASK; options follow as gsm8k?data=FILE&num_fewshot=0; "
        "repeatable",
    )
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="instead of a checkpoint: an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; only suites of "
        "generated replies",
    )
    parser.add_argument("--model", metavar="NAME", help="with --endpoint: the model's name on the server")
    parser.add_argument(
        "--api_key_env", metavar="VARIABLE", help="with --endpoint: the environment variable that holds the API key"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="with --endpoint: how long the server may be silent in a request; default: 300",
    )
    parser.add_argument("--with-base", action="store_true", help="also evaluate the adapter's base, from the same load")
    parser.add_argument("--format", choices=["plain", "chat", "both"], default="both", help="default: both")
    parser.add_argument(
        "--output_dir", help="folder of the eval runs; default: RUN/evals in the checkpoint's run directory"
    )
    parser.add_argument("--num_fewshot", type=int, help="examples before each item; default: the suite's own number")
    parser.add_argument(
        "--batch_size", type=int, help="rows per batch; default: 64; with --endpoint requests at a time; default: 8"
    )
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
    from eval.suite_rows.column_mapping import with_columns

    require_one_model(args)
    require_chat(args.chat_template, args.format)
    suites = with_columns(args.suite, args.columns)
    formats = ["plain", "chat"] if args.format == "both" else [args.format]
    (_of_endpoint if args.endpoint else _of_checkpoint)(args, suites, formats)
    return 0


def require_one_model(args: argparse.Namespace) -> None:
    """Raise unless there is either a checkpoint or an endpoint, with options that apply to it; all together."""
    from alignment.errors import UserError, raise_all

    if args.endpoint is None:
        without = [f"--{name}" for name in ENDPOINT_ONLY if getattr(args, name) is not None]
        wrong = [UserError(f"{', '.join(without)} without --endpoint", fix="add --endpoint URL")] if without else []
        if args.checkpoint is None:
            wrong.append(UserError("Nothing to evaluate.", fix="align eval CHECKPOINT, or --endpoint URL --model NAME"))
        raise_all(wrong)
        return
    own = {"a checkpoint": args.checkpoint, "--with-base": args.with_base, "--chat_template": args.chat_template}
    reasons = {
        "a checkpoint": "give either a checkpoint or an endpoint",
        "--with-base": "an endpoint has one model under one name: evaluate the base under its own name",
        "--chat_template": "the server applies its own chat template",
    }
    raise_all(
        [
            UserError(f"--endpoint cannot be combined with {name}", got=value, fix=reasons[name])
            for name, value in own.items()
            if value
        ]
    )


def _of_checkpoint(args: argparse.Namespace, suites: list[str], formats: list[str]) -> None:
    """Evaluate a checkpoint, and print its figures."""
    from eval.conditions.said_once import said_once
    from eval.harness.place import place_of
    from eval.harness.run_suite import evaluate_many
    from eval.harness.with_base import evaluate_with_base

    place = place_of(args.checkpoint)
    if args.output_dir:
        place = replace(place, folder=Path(args.output_dir))
    own = variant_of(vars(args), place.seed)
    batch_size = BATCH_SIZE if args.batch_size is None else args.batch_size
    options: dict[str, Any] = {"seed": place.seed} | own | {"batch_size": batch_size, "variant": own}
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
    _print_figures(records, place.folder)


def _of_endpoint(args: argparse.Namespace, suites: list[str], formats: list[str]) -> None:
    """Evaluate a model behind an endpoint, and print its figures."""
    from eval.comparison.find import ELSEWHERE
    from eval.endpoint.address import endpoint_of
    from eval.endpoint.evaluate_endpoint import evaluate_endpoint

    endpoint = endpoint_of(args.endpoint, args.model, args.api_key_env)
    own = variant_of(vars(args), 0)
    limits = {key: getattr(args, key) for key in ("batch_size", "timeout") if getattr(args, key) is not None}
    options = own | limits | {"variant": own, "too_long": args.too_long}
    folder = Path(args.output_dir) if args.output_dir else ELSEWHERE
    records = evaluate_endpoint(endpoint, suites, formats, folder, **options)
    _print_figures(records, folder)
    print(f"{endpoint.name}, unknown: {records[0]['endpoint']['unknown']}")


def _print_figures(records: list[dict], folder: Path) -> None:
    from eval.comparison.commonest import commonest_lines
    from eval.comparison.table import eval_table, stored_line
    from eval.harness.store import load_run

    print(eval_table(records))
    runs = [load_run(folder / record["run_id"]) for record in records]
    for line in [*commonest_lines(runs), f"written to {folder}; {stored_line([run.path for run in runs])}"]:
        print(line)


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
