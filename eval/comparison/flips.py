"""Items whose score changed between two runs, with the prompt and both answers."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from pathlib import Path

from eval.comparison.compare import is_own_figure, pair_items, side_names
from eval.harness.store import Run


def flips(a: Run, b: Run, names: dict[Path, str] | None = None) -> list[dict]:
    """List the regressed and fixed items of two comparable runs: regressions first, the largest change first.

    Args:
        a, b: runs that `compare` takes.
        names: run folder -> name of its checkpoint; by default the stage's.

    Returns:
        {a, b, suite, format, variant, task, metric, item_id, cluster, change, prompt, target, output_a, output_b,
        score_a, score_b}. `change` is regressed or fixed, whichever direction the metric has. Items with equal changes
        alternate between tasks.
    """
    names = names or side_names([a, b])
    about = {"a": names[a.path], "b": names[b.path], "suite": b.record["suite"], "format": b.record["format"]}
    about["variant"] = b.record.get("variant") or {}
    signs = {
        (figure["task"], figure["metric"]): -1 if figure["higher_is_better"] is False else 1
        for figure in b.record["tasks"]
        if is_own_figure(figure)
    }
    found: list[tuple[tuple, dict]] = []
    seen: Counter[tuple] = Counter()
    for row in pair_items(a, b).to_dict("records"):
        gain = (row["score"] - row["score_a"]) * signs.get((row["task"], row["metric"]), 0)
        if gain:
            group = (row["task"], row["metric"], gain > 0, gain)
            seen[group] += 1
            rank = (gain > 0, -abs(gain), seen[group])
            found.append((rank, about | _flip(row, "fixed" if gain > 0 else "regressed")))
    return [flip for _, flip in sorted(found, key=lambda pair: pair[0])]


def first_of_each(found: list[dict], count: int) -> list[dict]:
    """The first `count` regressed and the first `count` fixed items per metric and pair of runs."""
    taken: Counter[tuple[str, ...]] = Counter()
    chosen = []
    for flip in found:
        key = tuple(str(flip[name]) for name in ("a", "b", "suite", "format", "variant", "metric", "change"))
        taken[key] += 1
        if taken[key] <= count:
            chosen.append(flip)
    return chosen


def first_of_all(found: list[dict], count: int) -> list[dict]:
    """The first `count` items in all: of regressed and fixed ones and of each metric and pair of runs in turn.

    Items without a reply, such as documents whose bits per byte changed, are left out.
    """
    groups: dict[tuple[str, ...], list[dict]] = {}
    for flip in found:
        if flip["output_a"] or flip["output_b"]:
            key = tuple(str(flip[name]) for name in ("a", "b", "suite", "format", "variant", "metric", "change"))
            groups.setdefault(key, []).append(flip)
    ways = [[group for group in groups.values() if group[0]["change"] == way] for way in ("regressed", "fixed")]
    ordered = [group for both in zip_longest(*ways) for group in both if group]
    turns = [flip for turn in zip_longest(*ordered) for flip in turn if flip]
    return sorted(turns[:count], key=lambda flip: flip["change"] != "regressed")


def _flip(row: dict, change: str) -> dict:
    kept = ("task", "metric", "item_id", "cluster", "prompt", "target", "output_a")
    return {name: row[name] for name in kept} | {
        "output_b": row["output"],
        "score_a": float(row["score_a"]),
        "score_b": float(row["score"]),
        "change": change,
    }
