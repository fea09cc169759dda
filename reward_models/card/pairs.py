"""Preference pairs to judge a reward on, and several completions per prompt with gold scores."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.data.reading.files import read_files, split_files
from alignment.data.reading.formats import convert
from alignment.data.reading.sources import load_source
from alignment.errors import UserError
from reward_models.protocol import Text

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def read_pairs(name: str, split: str = "train", limit: int | None = None) -> Dataset:
    """Rows {prompt, chosen, rejected, ...} of messages, from any format that the reward stage reads.

    Args:
        name: a file, folder or glob, tinyworld:preference, or a data set on the hub.
        limit: number of rows, from the first; None for all.
    """
    rows, report = convert(load_source(name, split=split, kind="preference", max_rows=limit), "preference", keep=None)
    logger.info("%s: %s", name, report)
    return rows


def read_samples(file: str, gold: str = "gold") -> tuple[list[Text], list[list[Text]], list[list[float]]]:
    """(prompts, completions per prompt, gold scores per prompt) of a file.

    Args:
        file: rows {prompt, completion, GOLD}, grouped by prompt, or rows {prompt, completions, GOLD} with lists.
        gold: the column of the gold scores.
    """
    rows = read_files(split_files(str(Path(file)), "train"))
    several = "completions" in rows.column_names
    column = "completions" if several else "completion"
    missing = [name for name in ("prompt", column, gold) if name not in rows.column_names]
    if missing:
        raise UserError(
            f"{file} holds no completions with gold scores",
            got=f"columns {', '.join(rows.column_names)}",
            expected=f"prompt, completion (or a list: completions) and {gold}",
            fix="name the column of the gold scores with --gold",
        )
    found: dict[str, tuple[Text, list[Text], list[float]]] = {}
    for row in rows:
        _, completions, scores = found.setdefault(json.dumps(row["prompt"]), (row["prompt"], [], []))
        given, their = (row[column], row[gold]) if several else ([row[column]], [row[gold]])
        if not (isinstance(given, list) and isinstance(their, list)):
            raise UserError(
                f"{file}: {column} and {gold} are not lists", got=f"{given!r} and {their!r}"[:200], expected="two lists"
            )
        completions += given
        scores += their
    groups = list(found.values())
    _require_scores(file, gold, groups)
    return [prompt for prompt, _, _ in groups], [some for _, some, _ in groups], [scores for _, _, scores in groups]


def _require_scores(file: str, gold: str, groups: Sequence[tuple[Text, list[Text], list[float]]]) -> None:
    for prompt, completions, scores in groups:
        numbers = all(isinstance(one, (int, float)) and math.isfinite(one) for one in scores)
        if len(completions) != len(scores) or not numbers:
            raise UserError(
                f"{file}: completions without a gold score",
                got=f"{len(completions)} completions, {gold} {scores} for {prompt!r}",
                expected="a number for each completion",
            )
    if all(len(completions) < 2 for _, completions, _ in groups):
        raise UserError(f"{file} has one completion per prompt", expected="several completions of the same prompt")
