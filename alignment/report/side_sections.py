"""The page's section on other runs of a stage: what was changed, and what that changed."""

import json
import shlex
from pathlib import Path
from typing import Any

from alignment.report.first_screen.outcomes import row_text
from alignment.report.labels import duration, stage_name
from alignment.report.tables import order


def side_sections(report: dict) -> list[dict]:
    """One entry per other run: title, what it is, recipe changes, figures, verdicts, and how to evaluate it."""
    return [_section(report, entry) for entry in report.get("side_runs") or []]


def _section(report: dict, entry: dict) -> dict:
    now = stage_name(entry["stage"]) if entry["replaced"] else entry["stage"]
    rows = sorted((row for row in entry["comparisons"] if row.get("headline") and not row.get("variant")), key=order)
    return {
        "title": f"{now} {'as it is now ' if entry['replaced'] else ''}against {entry['other']}",
        "about": _about(entry),
        "changes": _changes(entry),
        "a": entry["other"],
        "b": now if entry["replaced"] else entry["folder"],
        "metrics": [row | {key: f"{row[key]:.4g}" for key in ("a", "b")} for row in entry["metrics"]],
        "items": [{"text": row_text(row), "verdict": row["verdict"]} for row in rows],
        "not_compared": entry["not_compared"],
        "commands": [] if entry["comparisons"] else _evaluate(report, entry),
    }


def _about(entry: dict) -> str:
    facts = [f"seed {entry['seed']}"] if entry.get("seed") is not None else []
    facts += [duration(entry["seconds"])] if entry.get("seconds") else []
    facts += [] if entry["finished"] else ["not finished"]
    what = (
        f"A rerun of {entry['stage']} replaced this run, which is kept in {entry['folder']}"
        if entry["replaced"]
        else f"{entry['folder']} has the method and the parent of {entry['other']}"
    )
    return f"{what} ({', '.join(facts)})." if facts else f"{what}."


def _changes(entry: dict) -> list[dict] | None:
    """The recipe's changed keys as text; None if the recipe of a side is unknown."""
    if entry["changes"] is None:
        return None
    return [change | {side: value_of_key(change[side]) for side in ("a", "b")} for change in entry["changes"]]


def value_of_key(value: Any) -> str:
    """A recipe's value as a recipe writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _evaluate(report: dict, entry: dict) -> list[str]:
    """Commands that evaluate another run on the suites of the stage, so that the next report compares the two."""
    folders = [entry["folder"]] if entry["replaced"] else [entry["folder"], entry["other"]]
    measured = {run["stage"] for run in report.get("eval_runs") or []}
    if not measured & {entry["stage"], entry["other"]}:  # a reward model, or a run without evaluations
        return []
    suites = list(dict.fromkeys(run["suite"] for run in report["eval_runs"]))
    flags = [part for suite in suites for part in ("--suite", suite)]
    flags += ["--seed", str(report["seed"])] if report.get("seed") else []
    run_dir = Path(report["run_dir"])
    return [
        shlex.join(["align", "eval", str(run_dir / folder / "checkpoint"), *flags])
        for folder in folders
        if folder not in measured
    ]
