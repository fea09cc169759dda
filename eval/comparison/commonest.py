"""The score of always giving the commonest answer: what a model gets that knows the answers' form and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from eval.harness.store import Run

MOST_ANSWERS = 10  # distinct ones, each at least twice; with more, the commonest says little
LONGEST_SHOWN = 40  # characters of an answer


def commonest(answers: Sequence[str]) -> tuple[str, float] | None:
    """Return the commonest of a suite's answers and its share; None if there are many, or one is there only once."""
    counts = Counter(answers)
    if not counts or len(counts) > MOST_ANSWERS or min(counts.values()) < 2:
        return None
    answer, count = counts.most_common(1)[0]
    return answer, count / len(answers)


def commonest_lines(runs: Sequence[Run]) -> list[str]:
    """Say what always giving the commonest answer scores, one line per suite; of generated replies, right or wrong."""
    found: dict[tuple[str, str], str] = {}
    for run in runs:
        for task, items in run.items[run.items["metric"] == "exact_match"].groupby("task", sort=False):
            if not np.isin(items["score"], (0, 1)).all():
                continue
            if best := commonest(list(items["target"])):
                answer, share = best
                shown = answer if len(answer) <= LONGEST_SHOWN else f"{answer[: LONGEST_SHOWN - 3]}..."
                found[run.record["suite"], str(task)] = f"{task} {share:.4f} ({shown!r})"
    suites = dict.fromkeys(suite for suite, _ in found)
    return [
        f"always giving the commonest answer would score, in {suite}: "
        + ", ".join(line for (its, _), line in found.items() if its == suite)
        for suite in suites
    ]
