"""Which eval runs are compared with which: each stage with the one it started from, and with base."""

from pathlib import Path

from alignment.errors import UserError
from eval.compare import compare
from eval.find import measurement
from eval.store import load_run


def compared(run_dir: Path, records: dict[str, dict], base: str) -> tuple[list[dict], list[dict]]:
    """Paired comparisons within a suite and format.

    Args:
        run_dir: the run directory.
        records: folder name -> run.json.
        base: the stage that every other one is compared with.

    Returns:
        Rows of eval.compare, each with `headline`; and the pairs that could not be compared, with the reason.
    """
    rows, refused = [], []
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
    return rows, refused


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
