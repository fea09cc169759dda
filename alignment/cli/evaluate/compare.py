"""`align compare`: a paired comparison of evaluated checkpoints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignment.cli.evaluate.eval import add_asking_arguments, require_chat

REGRESSED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    places = (
        "a checkpoint (with --suite, evaluated or not), an eval run's folder, a folder of eval runs, or an evaluated "
        "endpoint as URL#MODEL"
    )
    parser.add_argument("a", help=f"before: {places}")
    parser.add_argument("b", nargs="+", help="after: the same kinds of path; differences are b - a, for each b")
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        help="only this suite, as for `align eval`; repeatable; checkpoints without a run of the suite are evaluated "
        "first; default: all suites that both have",
    )
    parser.add_argument(
        "--format",
        choices=["plain", "chat", "both"],
        help="only runs in this format; it is also the format of evaluations that run first; default: all runs that "
        "both have, and for evaluations that run first the other side's format, or both",
    )
    parser.add_argument(
        "--limit", type=int, help="items per task of evaluations that run first; only runs with this limit"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="for evaluations that run first")
    add_asking_arguments(parser)
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="print N changed items, regressed and fixed ones in turn"
    )
    for name in ("md", "json", "html"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"also write the comparison as {name}")
    parser.add_argument(
        "--fail-on-regression",
        action="append",
        default=[],
        metavar="TASK:DELTA",
        help="exit code 1 if the task's score is worse by more than DELTA and the verdict is worse or unknown; TASK "
        "may be a glob or TASK/METRIC; repeatable",
    )
    parser.add_argument(
        "--strict", action="store_true", help="fail unless the interval rules out a loss of more than DELTA"
    )
    parser.add_argument("--any_template", action="store_true", help="compare chat runs whose chat templates differ")
    parser.epilog = "exit code: 0 compared, 1 a regression (--fail-on-regression), 2 not comparable"


def main(args: argparse.Namespace) -> int:
    from alignment.errors import UserError
    from eval.comparison.commonest import commonest_lines
    from eval.comparison.compare import side_names
    from eval.comparison.flips import first_of_all, flips
    from eval.comparison.gates import check_gates, parse_gate
    from eval.comparison.table import compare_table, flips_text, gate_lines, stored_line
    from eval.suite_rows.column_mapping import with_columns

    check_arguments(args)
    gates = [parse_gate(text) for text in args.fail_on_regression]
    formats = {None: None, "both": ["plain", "chat"]}.get(args.format, [args.format])
    keys = ("limit", "batch_size", "chat_template", "too_long") if args.suite else ()
    options = {"formats": formats} | {key: getattr(args, key) for key in keys}
    if not args.suite and (args.limit or args.chat_template):
        raise UserError("--limit and --chat_template apply to evaluations that --suite runs", fix="add --suite NAME")
    suites = with_columns(args.suite, args.columns)
    rows, pairs, skipped = compared(args.a, args.b, suites, any_template=args.any_template, **options)
    names = side_names([run for pair in pairs for run in pair])
    found = [flip for a, b in pairs for flip in flips(a, b, names)] if args.show else []
    changed = first_of_all(found, args.show)
    outcomes = check_gates(rows, gates, strict=args.strict)
    print(compare_table(rows))
    runs = list({run.path: run for pair in pairs for run in pair}.values())
    for line in [*commonest_lines(runs), stored_line([run.path for run in runs])]:
        print(line)
    for block in (
        flips_text(changed, len(found)) if args.show else "",
        "\n".join(f"not compared: {line}" for line in skipped),
        "\n".join(gate_lines(outcomes)),
    ):
        if block:
            print("\n" + block)
    _write(args, {"comparisons": rows, "skipped": skipped, "gates": outcomes, "flips": changed})
    return REGRESSED if any(outcome["failed"] for outcome in outcomes) else 0


def compared(
    first: str,
    others: Sequence[str],
    suites: Sequence[str],
    formats: Sequence[str] | None = None,
    *,
    any_template: bool = False,
    limit: int | None = None,
    chat_template: str | None = None,
    **options: Any,
) -> tuple[list[dict[str, Any]], list[tuple[Any, Any]], list[str]]:
    """Compare checkpoints with the first; run the suites that a checkpoint lacks before.

    Args:
        suites, formats, limit, chat_template: only runs of these are compared; by default all that both sides have.
        options: further keyword arguments of `evaluate_missing`.

    Returns:
        The rows, the pairs of runs, and what was not compared.

    Raises:
        UserError: nothing can be compared.
    """
    from alignment.errors import UserError
    from eval.comparison.compare import compare_pairs
    from eval.comparison.find import Asked, match, require_sides
    from eval.conditions.chat_template import template_of
    from eval.conditions.said_once import said_once
    from eval.harness.prepare import evaluate_missing
    from eval.harness.store import sha256_of_text
    from eval.harness.suite import suite_name

    if suites:  # evaluating one side takes time: a mistake in the other side's path comes first
        require_sides([first, *others])
    options |= {"limit": limit, "chat_template": chat_template}
    with said_once():
        outdated = evaluate_missing(first, others, suites, formats, **options) if suites else []
    digest = sha256_of_text(template_of(chat_template)) if chat_template else None
    asked = Asked([suite_name(suite) for suite in suites], formats or (), limit, digest)
    pairs, skipped = match(first, others, outdated=outdated, asked=asked)
    rows = compare_pairs(pairs, any_template=any_template)
    if not rows:
        raise UserError("Nothing to compare.", got="; ".join(skipped), expected="figures that are means over items")
    return rows, pairs, skipped


def check_arguments(args: argparse.Namespace) -> None:
    """Raise for invalid arguments, and for files that cannot be written, before anything is evaluated."""
    from alignment.durable.unwritable import require_writable_file
    from alignment.errors import UserError
    from eval.conditions.eval_options import require_options

    require_options(limit=args.limit, batch_size=args.batch_size)
    require_chat(args.chat_template, args.format)
    if args.show < 0:
        raise UserError("--show is out of range", got=args.show, expected="0 or more")
    for path in filter(None, (args.md, args.json, args.html)):
        require_writable_file(path)


def _write(args: argparse.Namespace, comparison: dict) -> None:
    """Write the requested files."""
    from alignment.durable.atomic import write_text
    from alignment.durable.unwritable import make_folder
    from alignment.report.comparison_page import render_comparison
    from eval.comparison.table import compare_markdown

    written = {
        args.md: compare_markdown,
        args.json: lambda content: json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        args.html: render_comparison,
    }
    for path, render in written.items():
        if path:
            make_folder(path.parent)
            write_text(path, render(comparison))
            print(f"written to {path}")
