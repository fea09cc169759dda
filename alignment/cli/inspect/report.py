"""`align report RUN_DIR [RUN_DIR ...]`: the report of a run directory, or a comparison of several."""

import argparse
import json
import os
import re
import shlex
from pathlib import Path

from alignment.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_dir", nargs="+", type=Path, metavar="RUN_DIR", help="a run directory, finished or not")
    parser.add_argument("--output", type=Path, metavar="FILE", help="with several RUN_DIR: the page of the comparison")
    parser.add_argument("--all", action="store_true", help="with several RUN_DIR: print the tied tasks too")
    parser.add_argument("--open", action="store_true", help="serve the page on 127.0.0.1, and open it in a browser")
    parser.epilog = """One RUN_DIR: its report.json and report.html are written anew.
Several: each stage is compared with the same stage of the first run, paired by item; the page is
FIRST/report-against-SECOND.html, unless --output is given."""


def main(args: argparse.Namespace) -> int:
    if len(args.run_dir) == 1:
        if args.output or args.all:
            raise UserError(
                f"{'--output' if args.output else '--all'} is for a comparison of several run directories",
                got=f"one run directory, {args.run_dir[0]}, whose report is {args.run_dir[0] / 'report.html'}",
                fix="leave the option out, or give a second run directory",
            )
        page = _single(args.run_dir[0])
    else:
        page = _several(args.run_dir, args.output, args.all)
    if args.open:
        from alignment.report.serving import serve

        serve([page, *([page.with_suffix(".json")] if len(args.run_dir) == 1 else [])])
    return 0


def _single(run_dir: Path) -> Path:
    from alignment.report import write_report
    from alignment.report.terminal import summary

    page = write_report(run_dir)
    data = page.with_suffix(".json")
    print(summary(json.loads(data.read_text(encoding="utf-8"))))
    print(f"\n{data}\n{page}")
    return page


def _several(run_dirs: list[Path], output: Path | None, every_task: bool) -> Path:
    from alignment.durable.atomic import write_text
    from alignment.durable.unwritable import make_folder, require_writable_file
    from alignment.redaction import redacted
    from alignment.report.runs.compared_runs import compare_runs
    from alignment.report.runs.runs_page import render_runs
    from alignment.report.runs.runs_text import runs_text

    comparison = redacted(compare_runs(run_dirs))
    page = output or run_dirs[0] / default_name([run["name"] for run in comparison["runs"][1:]])
    require_writable_file(page)
    replaces = require_own(page, run_dirs)
    print(runs_text(comparison, every_task))
    make_folder(page.parent)
    write_text(page, render_runs(comparison, run_dirs))
    print(f"\n{page}{' (replaced: a page of the same runs)' if replaces else ''}")
    return page


def default_name(others: list[str]) -> str:
    """The file name of a comparison with these runs."""
    return f"report-against-{re.sub(r'[^A-Za-z0-9._-]+', '-', '-and-'.join(others))[:150]}.html"


def require_own(page: Path, run_dirs: list[Path]) -> bool:
    """Whether a page of the same comparison exists; raises if the file is anything else."""
    from alignment.report.runs.runs_page import is_page_of

    if not os.path.lexists(page):
        return False
    regular = page.is_file()  # reading a pipe would wait for its writer
    if regular and is_page_of(page, run_dirs):
        return True
    raise UserError(
        f"{page} exists, and is not a page of this comparison",
        got=f"{'another file' if regular else 'no regular file'}, which is left as it is",
        expected="a new file",
        fix=f"--output {shlex.quote(str(page.with_name(f'{page.stem}-2.html')))}",
    )
