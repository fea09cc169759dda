"""Which eval runs are compared with which: each stage with the one it started from, and with base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alignment.errors import UserError
from eval.comparison.compare import compare
from eval.comparison.find import measurement
from eval.comparison.flips import first_of_each, flips
from eval.harness.store import Run, load_run

REGRESSIONS = 3  # shown of each metric, of each stage against its parent


def compared(run_dir: Path, records: dict[str, dict], base: str) -> tuple[list[dict], list[dict], list[dict]]:
    """Paired comparisons within a suite and format.

    Args:
        run_dir: the run directory.
        records: folder name -> run.json.
        base: the stage that every other one is compared with.

    Returns:
        Rows of eval.comparison.compare, each with `headline`; the pairs that could not be compared, with the reason;
        and of each stage and its parent the items that fell furthest, as eval.comparison.flips gives them.
    """
    rows, refused, fallen = [], [], []
    chosen = pairs(records, base)
    runs = {
        name: load_run(run_dir / "evals" / name) for name in dict.fromkeys(name for pair in chosen for name in pair)
    }
    for first, second in chosen:
        record = records[second]
        headlines = {
            (figure["task"], figure["metric"]) for figure in record["tasks"] if is_headline(figure, record["suite"])
        }
        try:
            found = compare(runs[first], runs[second])
        except UserError as error:
            names = {"a": records[first]["stage"], "b": record["stage"]}
            refused.append(names | {"suite": record["suite"], "format": record["format"], "reason": error.problem})
            continue
        rows += [row | {"headline": (row["task"], row["metric"]) in headlines} for row in found]
        if records[first]["stage"] == record.get("parent"):
            fallen += first_of_each(list(_fallen(runs[first], runs[second])), REGRESSIONS)
    return rows, refused, fallen


def _fallen(a: Run, b: Run) -> Iterator[dict]:
    """Items that the later run answers worse; those without an answer to show (scored texts) are left out."""
    names = {run.path: run.record["stage"] for run in (a, b)}
    return (flip for flip in flips(a, b, names) if flip["change"] == "regressed" and flip["output_b"])


def pairs(records: dict[str, dict], base: str) -> list[tuple[str, str]]:
    """(a, b) folder names: b's stage against its parent, then against base where that is another stage."""
    chosen = []
    for name, record in records.items():
        for stage in dict.fromkeys([record.get("parent"), base]):
            chosen += [
                (other, name)
                for other, candidate in records.items()
                if candidate["stage"] == stage != record["stage"] and measurement(candidate) == measurement(record)
            ]
    return chosen


def is_headline(figure: dict, suite: str) -> bool:
    """Whether a figure of run.json stands for its suite: an aggregate, a lone task, or bits per byte of clean text."""
    clean = figure["metric"] == "bits_per_byte" and figure["task"] == "clean"
    return bool(figure.get("members")) or figure["task"] == suite or clean
