"""Preference pairs to judge a reward on, and several completions per prompt with gold scores."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data.reading.files import read_files, split_files
from alignment.data.reading.formats import convert
from alignment.data.reading.sources import load_source
from alignment.errors import UserError
from reward_models.card.gold_scores import as_score
from reward_models.protocol import Text
from reward_models.returned import shown

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


@dataclass(frozen=True)
class Samples:
    """Several completions per prompt with gold scores, grouped by prompt.

    Attributes:
        prompts: of each group.
        completions, gold: of each group the completions and their gold scores.
        columns: the file's other columns, a value per completion in the order of the groups.
    """

    prompts: list[Text]
    completions: list[list[Text]]
    gold: list[list[float]]
    columns: dict[str, list[Any]]


def read_samples(file: str, gold: str = "gold") -> Samples:
    """The completions with gold scores in a file.

    Args:
        file: rows {prompt, completion, GOLD}, grouped by prompt, or rows {prompt, completions, GOLD} with lists; the
            values of other columns belong to each completion of their row.
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
    others = [name for name in rows.column_names if name not in ("prompt", column, gold)]
    groups: dict[str, list[tuple[Any, Any, Any, dict[str, Any]]]] = {}
    for row in rows:
        completions, scores = (row[name] if several else [row[name]] for name in (column, gold))
        _require_lists(file, gold, row["prompt"], completions, scores)
        group = groups.setdefault(json.dumps(row["prompt"]), [])
        kept = {name: row[name] for name in others}
        group += [(row["prompt"], *pair, kept) for pair in zip(completions, scores, strict=True)]
    found = list(groups.values())
    _require_samples(file, gold, [one for group in found for one in group])
    if all(len(group) < 2 for group in found):
        raise UserError(f"{file} has one completion per prompt", expected="several completions of the same prompt")
    if not all(found):
        raise UserError(f"{file} has prompts without completions", got=f"{found.count([])} of {len(found)}")
    return Samples(
        [group[0][0] for group in found],
        [[completion for _, completion, _, _ in group] for group in found],
        [[as_score(score) or 0.0 for _, _, score, _ in group] for group in found],
        {name: [kept[name] for group in found for _, _, _, kept in group] for name in others},
    )


def _require_lists(file: str, gold: str, prompt: Any, completions: Any, scores: Any) -> None:
    both = isinstance(completions, list) and isinstance(scores, list)
    if not both or len(completions) != len(scores):
        number = f"{len(completions)} completions" if isinstance(completions, list) else f"completions {completions!r}"
        raise UserError(
            f"{file}: completions without a gold score",
            got=f"{number}, {gold} {shown(scores)} for {shown(prompt)}",
            expected="a list of completions, and a list with a number for each",
        )


def _require_samples(file: str, gold: str, samples: Sequence[tuple[Any, Any, Any, dict[str, Any]]]) -> None:
    """Raise for samples whose prompt or completion is no text and no conversation, or whose score is no number."""
    texts = "a text, or a conversation of messages with role and content"
    for name, wrong, expected in (
        ("prompt", [one[0] for one in samples if not _is_text(one[0])], texts),
        ("completion", [one[1] for one in samples if not _is_text(one[1])], texts),
        (gold, [one[2] for one in samples if as_score(one[2]) is None], "a finite number for each completion"),
    ):
        if wrong:
            raise UserError(
                f"{file}: completions without a gold score" if name == gold else f"{file}: a {name} that is no text",
                got=f"{len(wrong)} of {len(samples)} samples, the first with {name} {shown(wrong[0])}",
                expected=expected,
                fix=f"correct or remove these samples in {file}",
            )


def _is_text(value: Any) -> bool:
    if isinstance(value, str):
        return True
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(
        isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ("role", "content")) for turn in turns
    )
