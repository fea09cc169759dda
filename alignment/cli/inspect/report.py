"""`align report RUN_DIR`: rebuild report.json and report.html of a run directory."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="a run directory, finished or not")


def main(args: argparse.Namespace) -> int:
    from alignment.report import write_report
    from alignment.report.terminal import summary

    page = write_report(args.run_dir)
    data = page.with_suffix(".json")
    print(summary(json.loads(data.read_text(encoding="utf-8"))))
    print(f"\n{data}\n{page}")
    return 0
