"""Accounts of rows: for each source and split, the rows read, dropped, repeated and used, which must add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Removal:
    """Rows that were dropped for one reason.

    Attributes:
        reason: the reason.
        rows: number of rows.
        examples: some of the rows: `row NUMBER of the source`, or `usable row NUMBER: TEXT (WHY)`, counted from 1.
        lost: whether the rows are unusable, rather than dropped because of a recipe key.
    """

    reason: str
    rows: int
    examples: list[str] = field(default_factory=list)
    lost: bool = False

    def __str__(self) -> str:
        where = f": {self.examples[0]}" if self.lost and self.examples else ""
        return f"{self.rows} {self.reason}{where}"


@dataclass
class Account:
    """The rows of one source in one split: read + repeated = rows + all removed.

    Attributes:
        source: name of the source.
        source_split: split of the source that the rows were read from.
        split: split of the stage: train, validation, ...
        read: rows read from the source, or split off from its training rows.
        format: the recognised columns.
        removed: the dropped rows, in the order of the filters.
        repeated: number of repetitions of rows in the split.
        rows: number of rows in the split.
        duplicates: number of rows, before the mix and any limit, that equal an earlier row except for white space;
            None: not counted.
        share: share of the mix by the source's weight; None without a weight.
        shared: number of rows, before the mix and any limit, with the same prompt as a held-out row that were kept
            (only in tinyworld).
        changed: what was changed during reading -> number of rows of the source, such as merged turns.
        unread: column that may change the meaning of a row -> number of rows whose conversation lacks its text.
        notes: columns that were left out, a sentence each.
    """

    source: str
    source_split: str
    split: str
    read: int
    format: str = ""
    removed: list[Removal] = field(default_factory=list)
    repeated: int = 0
    rows: int = 0
    duplicates: int | None = None
    share: float | None = None
    shared: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def remove(self, reason: str, rows: int, examples: Iterable[str] = (), lost: bool = False) -> None:
        """Record rows that were dropped for a reason, if there are any."""
        if rows:
            self.removed.append(Removal(reason, rows, list(examples), lost))

    @property
    def adds_up(self) -> bool:
        """Whether read + repeated = rows + all removed."""
        return self.read + self.repeated == self.rows + sum(removal.rows for removal in self.removed)

    def __str__(self) -> str:
        reasons = "; ".join(map(str, self.removed))
        repeated = f", {self.repeated} of them repeats" if self.repeated else ""
        lost = f" (dropped: {reasons})" if reasons else ""
        changed = "".join(f"; {what}: {count}" for what, count in sorted(self.changed.items()))
        place = f"{self.source}, split {self.source_split}, columns {self.format}"
        return f"{self.split}: {self.rows} rows of {self.read} from {place}{repeated}{lost}{changed}"

    def remarks(self) -> list[str]:
        """Return a sentence for each group of columns that were not read or left out."""
        unread = ", ".join(f"{name} ({count} rows)" for name, count in sorted(self.unread.items()))
        missing = [f"columns that may change the meaning of a row are not read: {unread}"] if unread else []
        return [f"{self.source}: {remark}" for remark in (*missing, *self.notes)]


@dataclass
class DataReport:
    """The accounts of a stage's data, with notes.

    Attributes:
        kind: text, sft, preference, ...
        accounts: an account for each source and split.
        notes: further findings, a sentence each.
        repeated_text: share of the characters of the training rows, before the mix and any limit, that is in exact
            duplicates.
    """

    kind: str
    accounts: list[Account]
    notes: list[str] = field(default_factory=list)
    repeated_text: float = 0.0

    def rows(self, split: str) -> int:
        """Return the number of rows in a split."""
        return sum(account.rows for account in self.accounts if account.split == split)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values: {kind, splits: {name: rows}, accounts: [...], notes: [...]}."""
        names = dict.fromkeys(account.split for account in self.accounts)
        values = asdict(self)
        return {"kind": self.kind, "splits": {name: self.rows(name) for name in names}, **values}
