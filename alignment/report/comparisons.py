"""Pairs of eval runs that the report compares: each stage with its parent, and with the base stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from alignment.errors import UserError
from alignment.report.headlines import headlines
from eval.comparison.compare import compare
from eval.comparison.find import measurement
from eval.comparison.flips import first_of_each, flips
from eval.harness.store import Run, load_run

REGRESSIONS = 3  # items shown per stage and metric


def compared(
    run_dir: Path, records: dict[str, dict], base: str | None, headline: Mapping[str, str]
) -> tuple[list[dict], list[dict], list[dict]]:
    """Paired comparisons within a suite and format.

    Args:
        run_dir: the run directory.
        records: folder name (or absolute folder) -> run.json; the stages are those named here.
        base: the stage that every other stage is compared with.
        headline: suite -> the task that represents it, if it is not the suite's aggregate.

    Returns:
        Rows of eval.comparison.compare, each with `headline`; the pairs that could not be compared, with the reason;
        and for each stage the items that fell furthest below its parent, as eval.comparison.flips gives them.
    """
    rows, refused, fallen = [], [], []
    chosen = pairs(records, base)
    runs = {
        name: replace(load_run(run_dir / "evals" / name), record=records[name])
        for name in dict.fromkeys(name for pair in chosen for name in pair)
    }
    for first, second in chosen:
        record = records[second]
        represent = headlines(record, headline.get(record["suite"]))
        try:
            found = compare(runs[first], runs[second])
        except UserError as error:
            names = {"a": records[first]["stage"], "b": record["stage"]}
            refused.append(names | {"suite": record["suite"], "format": record["format"], "reason": error.problem})
            continue
        rows += [row | {"headline": (row["task"], row["metric"]) in represent} for row in found]
        if records[first]["stage"] == record.get("parent"):
            fallen += first_of_each(list(_fallen(runs[first], runs[second])), REGRESSIONS)
    return rows, refused, fallen


def _fallen(a: Run, b: Run) -> Iterator[dict]:
    """Items that the later run answers worse, if there is an answer to show (scored texts have none)."""
    names = {run.path: run.record["stage"] for run in (a, b)}
    return (flip for flip in flips(a, b, names) if flip["change"] == "regressed" and flip["output_b"])


def pairs(records: dict[str, dict], base: str | None) -> list[tuple[str, str]]:
    """(a, b) folder names: b's stage against its parent, then against the base stage if that is another stage."""
    chosen = []
    for name, record in records.items():
        for stage in dict.fromkeys([record.get("parent"), base]):
            chosen += [
                (other, name)
                for other, candidate in records.items()
                if candidate["stage"] == stage != record["stage"] and measurement(candidate) == measurement(record)
            ]
    return chosen
