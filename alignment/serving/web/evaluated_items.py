"""The items of evaluations that two served checkpoints share, with both outputs, regressions first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError
from alignment.serving.batching.served_models import Named

if TYPE_CHECKING:
    from eval.harness.store import Run

MOST_ITEMS = 2000  # of a comparison
CHANGES = ("regressed", "fixed", "unchanged")
KEPT = ("task", "metric", "item_id", "prompt", "target", "output_a", "output_b", "score_a", "score_b", "change")


def evaluated_items(named: Sequence[Named]) -> dict[str, Any] | None:
    """Return the items of each pair of checkpoints and suite; None if no two checkpoints have an evaluation in common.

    Returns:
        {comparisons: [{a, b, suite, format, counts: {change: number}, items}]}. Each list begins with the regressions,
        then the fixed items, each by the size of the change; long lists are cut, counts are not.
    """
    found = []
    for a, b in itertools.combinations(named, 2):
        found += [_comparison(a.name, b.name, *pair) for pair in _shared_runs(a.checkpoint, b.checkpoint)]
    return {"comparisons": found} if found else None


def _shared_runs(a: str, b: str) -> list[tuple[Run, Run]]:
    from eval.comparison.compare import compare
    from eval.comparison.find import match

    try:
        pairs, _ = match(a, [b])
    except UserError:  # not evaluated, or on nothing in common
        return []
    kept = []
    for pair in pairs:
        try:
            compare(*pair)
        except UserError:  # other items or settings
            continue
        kept.append(pair)
    return kept


def _comparison(a: str, b: str, first: Run, second: Run) -> dict[str, Any]:
    from eval.comparison.flips import flips

    changed = [{name: flip[name] for name in KEPT} for flip in flips(first, second)]
    items = [*changed, *_unchanged(first, second)]
    counts = {change: sum(item["change"] == change for item in items) for change in CHANGES}
    about = {"a": a, "b": b, "suite": second.record["suite"], "format": second.record["format"], "counts": counts}
    return about | {"items": [_plain(item) for item in items[:MOST_ITEMS]]}


def _unchanged(first: Run, second: Run) -> list[dict[str, Any]]:
    from eval.comparison.compare import pair_items

    return [
        {name: row[name] for name in ("task", "metric", "item_id", "prompt", "target", "output_a")}
        | {"output_b": row["output"], "score_a": row["score_a"], "score_b": row["score"], "change": "unchanged"}
        for row in pair_items(first, second).to_dict("records")
        if row["score"] == row["score_a"]
    ]


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as JSON has it: texts, and numbers that are finite."""
    scores = {name: float(item[name]) for name in ("score_a", "score_b")}
    texts = {name: "" if value is None else str(value) for name, value in item.items() if name not in scores}
    return texts | {name: value if math.isfinite(value) else None for name, value in scores.items()}
