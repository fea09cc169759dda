"""Parts: the rows that one source contributes to a split, with their account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignment.data.arguments import Source
from alignment.data.preparing.account import Account
from alignment.data.preparing.filters import EXAMPLES, Filtered, quote, whole_text
from alignment.data.reading.columnar_files import as_json
from alignment.data.reading.formats import KINDS, convert
from alignment.data.reading.row_formats import UNDECIDED
from alignment.data.reading.sources import load_source

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Part:
    """Canonical rows of a source, their numbers among its usable rows, and the account of all its rows."""

    rows: Dataset
    numbers: np.ndarray
    account: Account

    def select(self, kept: Sequence[int] | np.ndarray) -> None:
        """Keep only the rows at the given places in `rows`, ascending."""
        if len(kept) < len(self.rows):
            self.rows, self.numbers = self.rows.select(kept), self.numbers[np.asarray(kept, dtype=np.int64)]
        self.account.rows = len(self.rows)


def read_part(
    source: Source, source_split: str, split: str, kind: str, keep: Sequence[str] | None, limit: int | None = None
) -> Part:
    """Read the usable rows of one split of a source for the stage's `split`.

    Args:
        limit: number of rows to stream; for the training split, the source's max_rows applies instead.
    """
    limit = source.max_rows if split == "train" else limit
    rows = load_source(
        source.name,
        config=source.config,
        split=source_split,
        kind=kind,
        streaming=source.streaming,
        max_rows=limit if source.streaming else None,
    )
    beyond = 0
    if split == "train" and source.max_rows and len(rows) > source.max_rows:
        beyond = len(rows) - source.max_rows
        rows = rows.select(range(source.max_rows))
    rows, report = convert(rows, kind, columns=source.columns, keep=keep)
    account = Account(str(source), source_split, split, report.read + beyond)
    account.remove("beyond max_rows", beyond)
    account.format, account.rows = report.format, len(rows)
    account.changed, account.unread, account.notes = report.changed, report.unread, report.notes
    for reason, count in report.dropped.items():
        shown = [f"row {number} of the source" for number in report.examples.get(reason, [])]
        if shown and reason in report.seen:
            shown[-1] += f" (values: {', '.join(report.seen[reason])})"
        account.remove(reason, count, shown, lost=reason != UNDECIDED)
    return Part(rows, np.arange(len(rows)), account)


def apply(filtered: Filtered, parts: Sequence[Part], kind: str, lost: bool = False) -> None:
    """Drop the rows that a filter removed from the concatenated parts, and record them in the accounts."""
    kept, first = np.asarray(filtered.kept, dtype=np.int64), 0
    for part in parts:
        past = first + len(part.rows)
        reasons: dict[str, list[int]] = {}
        for number, reason in filtered.removed.items():
            if first <= number < past:
                reasons.setdefault(reason, []).append(number)
        for reason, numbers in reasons.items():
            shown = [
                _example(part, number - first, filtered.details.get(number), kind) for number in numbers[:EXAMPLES]
            ]
            part.account.remove(reason, len(numbers), shown, lost)
        part.select(kept[(kept >= first) & (kept < past)] - first)
        first = past


def _example(part: Part, place: int, detail: str | None, kind: str) -> str:
    text = quote(whole_text(part.rows[place], kind))
    return f"usable row {part.numbers[place] + 1}: {text}" + (f" ({detail})" if detail else "")


def concatenated(parts: Sequence[Part]) -> Dataset:
    """Concatenate the rows of the parts; columns whose types differ between sources become JSON, which keeps values."""
    from datasets import Value, concatenate_datasets

    sets = [part.rows for part in parts]
    if len(sets) == 1:
        return sets[0]
    types: dict[str, list[object]] = {}
    for rows in sets:
        for name, feature in rows.features.items():
            if feature != Value("null") and feature not in types.setdefault(name, []):
                types[name].append(feature)
    differing = {name for name, features in types.items() if len(features) > 1}
    return concatenate_datasets([as_json(rows, differing & rows.features.keys()) for rows in sets])


def canonical(parts: Sequence[Part], kind: str) -> Dataset:
    """Concatenate the parts, with only the columns of `kind`."""
    from datasets import concatenate_datasets

    rows = [part.rows.select_columns(list(KINDS[kind])) for part in parts]
    return rows[0] if len(rows) == 1 else concatenate_datasets(rows)
