"""What a judge stage reads of pairs in which two checkpoints wrote the replies, a policy and its baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alignment.durable.read import read_json
from alignment.stages.made_rows.own_columns import MODELS
from alignment.stages.shared.inputs import ACCOUNT
from eval.generation.sampled_rows import EQUAL_REPLIES

MADE = "account.json"  # of the rows that a data stage made


def compared_models(rows: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The policy and the baseline that wrote the first and the second reply of every row; None for other rows."""
    found = {(row.get(MODELS[0]), row.get(MODELS[1])) for row in rows}
    policy, baseline = found.pop() if len(found) == 1 else (None, None)
    if isinstance(policy, str) and isinstance(baseline, str) and policy != baseline:
        return policy, baseline
    return None


def pairs_left_out(reason: str) -> str:
    """What a sample stage's account calls the pairs of two checkpoints that became no row for a reason."""
    return f"pairs left out: {reason}"


def equal_pairs(stage_dir: Path) -> int:
    """The number of pairs of equal replies of two checkpoints, which the rows that a judge stage read do not hold.

    The sample stage that wrote the rows counted them. If the judge's recipe leaves rows out, the same share of the
    equal pairs counts as left out.
    """
    total = 0.0
    for account in read_json(stage_dir / ACCOUNT)["accounts"]:
        made = Path(account["source"]) / MADE
        if account["split"] == "train" and made.is_file():
            usable = account["read"] - sum(one["rows"] for one in account["removed"] if one["lost"])
            equal = read_json(made)["counts"].get(pairs_left_out(EQUAL_REPLIES), 0)
            total += equal * account["rows"] / usable if usable else 0
    return round(total)


def versus_gaps(
    rows: Sequence[Mapping[str, Any]],
    judged: Sequence[tuple[int, str]],
    gold_gaps: Sequence[float] | np.ndarray,
    policy: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Each row's gap by the judge and by gold, of the policy's reply over the baseline's: means over principles.

    A row has the principles on which both have an opinion. A rating is in units of the root mean square of its judge's
    gaps, since judges may rate on different scales.

    Args:
        rows: judged rows.
        judged: the place of a row and a principle, for each gold gap.
        gold_gaps: gold score of the chosen reply minus that of the rejected one; NaN if unknown.

    Returns:
        (R,), (R,); NaN for a row without an opinion.
    """
    scales = rating_scales(rows)
    both: list[list[tuple[float, float]]] = [[] for _ in rows]
    for (place, principle), gold in zip(judged, gold_gaps, strict=True):
        if np.isfinite(gold):
            entries = [one for one in answered(rows[place]) if one["principle"] == principle]
            gaps = [(one["a_first"] - one["b_first"]) / scales.get(one["judge"], 1.0) for one in entries]
            both[place].append((float(np.mean(gaps)), float(gold)))
    signs = np.array([1.0 if row[MODELS[0]] == policy else -1.0 for row in rows])
    means = np.array([np.mean(some, axis=0) if some else (np.nan, np.nan) for some in both]).reshape(-1, 2)
    return signs * means[:, 0], signs * means[:, 1]


def rating_scales(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The root mean square of each judge's differences of ratings, of judges that rate; 1 for one without any."""
    gaps: dict[str, list[float]] = {}
    for row in rows:
        for one in answered(row):
            if one.get("rated"):
                gaps.setdefault(one["judge"], []).append(one["a_first"] - one["b_first"])
    return {judge: float(np.sqrt(np.mean(np.square(some)))) or 1.0 for judge, some in gaps.items()}


def answered(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of the judges that gave both answers."""
    return [one for one in row["judged"] if one["a_first"] is not None and one["b_first"] is not None]
