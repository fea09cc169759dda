"""What became of every row: an account for each source and split, which must add up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Removal:
    """Rows that were left behind for one reason.

    Attributes:
        examples: a few of them: `row NUMBER of the source`, or `usable row NUMBER: TEXT (WHY)`, both counted from 1.
        lost: the rows cannot be used; otherwise the recipe wants them left behind.
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
    """The rows that one source gave to one split: read + repeated = rows + all removed.

    Attributes:
        source: the source's name.
        source_split: the split of the source that they were read from.
        split: the stage's split that they went to: train, validation, ...
        read: rows taken from the source, or split off from its training rows.
        format: the columns that were recognised.
        removed: what was left behind, in the order in which it was.
        repeated: how many rows stand in the split once more, for every time that they do.
        rows: how many there are in the split.
        duplicates: how many rows, before the mix and any limit, are the same as an earlier one but for white space;
            None: not counted.
        share: the share of the mix that its weight asks for; None where it has none.
        shared: how many rows, before the mix and any limit, ask what a held-out row asks and were left in (of tinyworld
            alone).
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

    def remove(self, reason: str, rows: int, examples: Iterable[str] = (), lost: bool = False) -> None:
        if rows:
            self.removed.append(Removal(reason, rows, list(examples), lost))

    @property
    def adds_up(self) -> bool:
        return self.read + self.repeated == self.rows + sum(removal.rows for removal in self.removed)

    def __str__(self) -> str:
        reasons = "; ".join(map(str, self.removed))
        repeated = f", {self.repeated} of them repeats" if self.repeated else ""
        lost = f" (left behind: {reasons})" if reasons else ""
        place = f"{self.source}, split {self.source_split}, columns {self.format}"
        return f"{self.split}: {self.rows} rows of {self.read} from {place}{repeated}{lost}"


@dataclass
class DataReport:
    """The accounts of a stage's data, and what else is worth telling.

    Attributes:
        kind: text, sft, preference, ...
        accounts: one for each source and split.
        notes: sentences.
    """

    kind: str
    accounts: list[Account]
    notes: list[str] = field(default_factory=list)

    def rows(self, split: str) -> int:
        return sum(account.rows for account in self.accounts if account.split == split)

    def to_json(self) -> dict[str, Any]:
        """As JSON values: {kind, splits: {name: rows}, accounts: [...], notes: [...]}."""
        names = dict.fromkeys(account.split for account in self.accounts)
        values = asdict(self)
        return {"kind": self.kind, "splits": {name: self.rows(name) for name in names}, **values}
