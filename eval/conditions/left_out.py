"""Items that do not fit into the model's context: left out of the scores, and counted."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from eval.harness.suite import Suite

TOO_LONG = "too long"
LISTED = 3  # tasks; more are summed up
MUCH = 0.05  # share of the items from which the others' scores may differ from those of all
Items = Collection[tuple[str, int]]  # (task name, document index)


def leave_out(results: dict, suite: Suite, too_long: Items) -> list[dict]:
    """Remove items from lm-eval's results, in place, and compute the figures of the others afresh.

    Few-shot examples are drawn for all items, so that the prompts of the others are those of a run without omissions.

    Args:
        results: as `lm_eval.evaluate` returns them.
        too_long: the items that the model was not asked.

    Returns:
        [{task, reason, n, of, items}] with the ids of the items, one entry per task that lacks some.

    Raises:
        UserError: no item is left.
    """
    from eval.harness.items import item_id, short_name

    entries = []
    for name in sorted({name for name, _ in too_long}):
        samples = results["samples"][name]
        kept = [sample for sample in samples if (name, sample["doc_id"]) not in too_long]
        ids = {sample["doc_id"]: item_id(sample) for sample in samples}
        gone = [ids[doc] for doc in ids if (name, doc) in too_long]
        entries.append({"task": short_name(name), "reason": TOO_LONG, "n": len(gone), "of": len(ids), "items": gone})
        results["samples"][name] = kept
        others = {key: value for key, value in results["results"][name].items() if "," not in key}
        results["results"][name] = others | _aggregated(kept, suite.tasks[name])
        results["n-samples"][name]["effective"] = len(ids) - len(gone)
    if entries and not any(results["samples"].values()):
        asked = [suite.tasks[name] for name in {name for name, _ in too_long}]
        examples = any(task.config.num_fewshot for task in asked)
        raise nothing_fits(entries, to_fit(examples, any(task.OUTPUT_TYPE == "generate_until" for task in asked)))
    return entries


def _aggregated(samples: list[dict], task: Task) -> dict[str, Any]:
    """A task's figures as lm-eval computes them, `metric,filter` -> value; empty without samples."""
    values: dict[tuple[str, str], list] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            values.setdefault((metric, sample["filter"]), []).append(sample[metric])
    rules = task.aggregation()
    return {f"{metric},{name}": rules.get(metric, np.mean)(some) for (metric, name), some in values.items()}


def to_fit(examples: bool, replies: bool) -> str:
    """What makes items shorter: fewer few-shot examples if the task draws some, and shorter replies if it has any."""
    options = [*(["num_fewshot=0"] if examples else []), *(["max_gen_toks=64"] if replies else [])]
    ways = [*(["fewer examples"] if examples else []), *(["shorter replies"] if replies else [])]
    if not options:
        return "use a model with a longer context: these prompts are the task's own"
    return f"use {' or '.join(ways)} (SUITE?{'&'.join(options)})"


def nothing_fits(entries: list[dict], fix: str) -> UserError:
    """The error for a suite of which no item fits."""
    return UserError(
        "No item fits into the model's context.",
        got="; ".join(f"{entry['n']} of {entry['of']} items of {entry['task']} are too long" for entry in entries),
        fix=f"{fix}, or omit the suite",
    )


def note(record: dict) -> list[str]:
    """What a run (its record) leaves out, in lines: of each task, or of many tasks together."""
    entries = record.get("left_out", [])
    parts = [(f"items of {entry['task']}", entry["n"], entry["of"]) for entry in entries]
    if len(parts) > LISTED:
        parts = [(f"items of {len(parts)} tasks", *(sum(entry[key] for entry in entries) for key in ("n", "of")))]
    gone = [entry["task"] for entry in entries if entry["n"] == entry["of"]]
    whole = [f"left out: no figure of {', '.join(gone)}, nor of means over them: no item fits"] if gone else []
    return whole + [
        f"left out: {n} of {of} {what} ({record['suite']} {record['format']}) do not fit into the model's context"
        f"{_size(record)}; the scores are of the others"
        + (f": {n / of:.0%} is much, so compare them only with scores of the same items" if n / of > MUCH else "")
        for what, n, of in parts
    ]


def _size(record: dict) -> str:
    """The size of a run's context, in words; empty if it is unknown, as behind an endpoint."""
    return f" of {record['context']} tokens" if record["context"] else ""


def lacking(*records: dict) -> dict[str, set[str]]:
    """Task -> the ids of the items that at least one of the runs left out."""
    found: dict[str, set[str]] = {}
    for record in records:
        for entry in record.get("left_out", []):
            found.setdefault(entry["task"], set()).update(entry["items"])
    return found
