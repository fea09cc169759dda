"""The same prompts answered by every stage, chosen by rule, so that a rebuilt report shows the same prompts."""

import re
from collections.abc import Sequence
from pathlib import Path

PROMPTS = 30
MARKERS = re.compile(r"<\|[^|<>]*\|>")  # the turn markers of a chat template, not part of the prompt
CHANGES = {"regressed": 0, "fixed": 1, None: 2}  # in the order in which they are shown

Answers = dict[tuple[str, str], dict]  # (task, item id) -> row of items.parquet


def side_by_side(
    run_dir: Path, records: dict[str, dict], stages: list[str], suites: Sequence[str], n: int = PROMPTS
) -> list[dict]:
    """Prompts of one suite with the answers of every stage that was evaluated on it.

    The format is that of most stages' runs; chat if both are equal. `n` prompts are shared evenly among the
    tasks. If answers are right or wrong, each task shows first a prompt that a stage gets wrong and its parent got
    right (change: regressed), then a prompt that a stage gets right and its parent got wrong (fixed), then others;
    otherwise the task's first prompts.

    Args:
        run_dir: the run directory.
        records: folder name -> run.json.
        stages: the stages in the order of the pipeline.
        suites: the candidates; the first whose answers are text is shown.
        n: the number of prompts.

    Returns:
        [{prompt, outputs: {stage: text}, correct: {stage: bool, or None for a graded answer}, task, target, suite,
        format, change}].
    """
    for suite in suites:
        format, folders = _best_format(records, stages, suite)
        tables = {stage: _answers(run_dir / "evals" / folder, records[folder]) for stage, folder in folders.items()}
        if any(row["output"] for table in tables.values() for row in table.values()):
            parents = {stage: records[folder].get("parent") for stage, folder in folders.items()}
            about = {"suite": suite, "format": format}
            return [sample | about for sample in _chosen(_samples(tables, parents), n)]
    return []


def _best_format(records: dict[str, dict], stages: list[str], suite: str) -> tuple[str, dict[str, str]]:
    """The format with most stages, and its folders by stage in the order of the pipeline."""
    found: dict[str, dict[str, str]] = {"chat": {}, "plain": {}}
    for name, record in records.items():
        if record["suite"] == suite and not record.get("variant"):
            found[record["format"]][record["stage"]] = name
    format = max(found, key=lambda name: len(found[name]))
    order = [*stages, *sorted(found[format].keys() - set(stages))]
    return format, {stage: found[format][stage] for stage in order if stage in found[format]}


def _answers(folder: Path, record: dict) -> Answers:
    """The scored answer to each item, by the first of the run's metrics that has a score for it."""
    import pandas

    rank = {metric: place for place, metric in enumerate(dict.fromkeys(figure["metric"] for figure in record["tasks"]))}
    answers: Answers = {}
    for row in pandas.read_parquet(folder / "items.parquet").to_dict("records"):
        key = row["task"], row["item_id"]
        if row["metric"] in rank and (key not in answers or rank[row["metric"]] < rank[answers[key]["metric"]]):
            answers[key] = row
    return answers


def _samples(tables: dict[str, Answers], parents: dict[str, str | None]) -> list[dict]:
    """The items that every stage answered, in the order of the suite."""
    graded = {task for table in tables.values() for (task, _), row in table.items() if row["score"] not in (0, 1)}
    shared = [key for key in next(iter(tables.values())) if all(key in table for table in tables.values())]
    return [
        _sample({stage: table[key] for stage, table in tables.items()}, parents, key[0] in graded) for key in shared
    ]


def _sample(rows: dict[str, dict], parents: dict[str, str | None], graded: bool) -> dict:
    row = next(iter(rows.values()))
    correct = {stage: None if graded else answer["score"] == 1.0 for stage, answer in rows.items()}
    return {
        "prompt": MARKERS.sub("", row["prompt"]).strip(),
        "outputs": {stage: answer["output"] for stage, answer in rows.items()},
        "correct": correct,
        "task": row["task"],
        "target": row["target"].strip(),
        "change": _change(correct, parents),
    }


def _change(correct: dict[str, bool | None], parents: dict[str, str | None]) -> str | None:
    steps = {(correct[parent], correct[stage]) for stage, parent in parents.items() if parent in correct}
    return "regressed" if (True, False) in steps else "fixed" if (False, True) in steps else None


def _chosen(samples: list[dict], n: int) -> list[dict]:
    """At most `n` samples, equally many of each task, in the order of the tasks."""
    tasks: dict[str, list[dict]] = {}
    for sample in samples:
        tasks.setdefault(sample["task"], []).append(sample)
    each = max(1, n // max(1, len(tasks)))
    return [sample for own in tasks.values() for sample in _mixed(own, each)][:n]


def _mixed(samples: list[dict], count: int) -> list[dict]:
    """`count` samples: one of each kind of change before a second of any, then sorted by kind."""
    ranked = sorted(samples, key=lambda sample: CHANGES[sample["change"]])
    firsts = [next(sample for sample in ranked if sample["change"] == kind) for kind in _kinds(ranked)]
    others = [sample for sample in ranked if not any(sample is first for first in firsts)]
    return sorted((firsts + others)[:count], key=lambda sample: CHANGES[sample["change"]])


def _kinds(samples: list[dict]) -> list[str | None]:
    return list(dict.fromkeys(sample["change"] for sample in samples))
