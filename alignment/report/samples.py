"""The same prompts answered by every stage, chosen by rule so that a rebuilt report shows the same ones."""

import re
from pathlib import Path

SUITE, METRIC = "tinyworld", "exact_match"
PER_FAMILY, PROMPTS = 2, 30
MARKERS = re.compile(r"<\|[^|<>]*\|>")  # the turn markers of a chat template, no part of what was asked


def side_by_side(run_dir: Path, records: dict[str, dict], stages: list[str]) -> list[dict]:
    """[{prompt, outputs: {stage: text}, correct: {stage: bool}, family, target, format, change}] of tinyworld.

    The format is the one that most stages were run in, chat where that is equal. A few prompts a family: first one that
    some stage gets wrong and its parent got right (change: broken), then one that a stage gets right and its parent got
    wrong (change: mended), then others, each in the order of the suite.
    """
    format, folders = _best_format(records, stages)
    tables = {stage: _answers(run_dir / "evals" / folder) for stage, folder in folders.items()}
    parents = {stage: records[folder]["parent"] for stage, folder in folders.items()}
    shared = [key for key in next(iter(tables.values()), {}) if all(key in table for table in tables.values())]
    return _chosen([_sample(key, tables, parents) | {"format": format} for key in shared])


def _best_format(records: dict[str, dict], stages: list[str]) -> tuple[str, dict[str, str]]:
    """The format with most stages, and its folders by stage in the order of the pipeline."""
    found: dict[str, dict[str, str]] = {"chat": {}, "plain": {}}
    for name, record in records.items():
        if record["suite"] == SUITE and not record.get("variant"):
            found[record["format"]][record["stage"]] = name
    format = max(found, key=lambda one: len(found[one]))
    order = [*stages, *sorted(found[format].keys() - set(stages))]
    return format, {stage: found[format][stage] for stage in order if stage in found[format]}


def _answers(folder: Path) -> dict[tuple[str, str], dict]:
    """(task, item id) -> the row of the scored answer."""
    import pandas

    items = pandas.read_parquet(folder / "items.parquet")
    items = items[items["metric"] == METRIC]
    return {(row["task"], row["item_id"]): row for row in items.to_dict("records")}


def _sample(key: tuple[str, str], tables: dict[str, dict], parents: dict[str, str | None]) -> dict:
    rows = {stage: table[key] for stage, table in tables.items()}
    row = next(iter(rows.values()))
    correct = {stage: one["score"] == 1.0 for stage, one in rows.items()}
    return {
        "prompt": MARKERS.sub("", row["prompt"]).strip(),
        "outputs": {stage: one["output"] for stage, one in rows.items()},
        "correct": correct,
        "family": key[0],
        "target": row["target"].strip(),
        "change": _change(correct, parents),
    }


def _change(correct: dict[str, bool], parents: dict[str, str | None]) -> str | None:
    steps = {(correct[parent], correct[stage]) for stage, parent in parents.items() if parent in correct}
    return "broken" if (True, False) in steps else "mended" if (False, True) in steps else None


def _chosen(samples: list[dict]) -> list[dict]:
    """PER_FAMILY of each family, in the order of the families."""
    rank = {"broken": 0, "mended": 1, None: 2}
    families: dict[str, list[dict]] = {}
    for sample in sorted(samples, key=lambda one: rank[one["change"]]):
        families.setdefault(sample["family"], []).append(sample)
    picked = [_mixed(families[family]) for family in dict.fromkeys(one["family"] for one in samples)]
    return [sample for few in picked for sample in few][:PROMPTS]


def _mixed(ranked: list[dict]) -> list[dict]:
    """One of each kind of change before a second of any."""
    firsts = [
        next(one for one in ranked if one["change"] == kind) for kind in dict.fromkeys(o["change"] for o in ranked)
    ]
    rest = [one for one in ranked if not any(one is first for first in firsts)]
    return (firsts + rest)[:PER_FAMILY]
