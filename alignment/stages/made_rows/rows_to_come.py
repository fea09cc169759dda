"""What is known of a data stage's rows before it has run, so that a stage that reads them is checked before both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PROMPT = [{"role": "user", "content": "What is the capital of France?"}]
SAID = [[{"role": "assistant", "content": text}] for text in ("It is Paris.", "Paris.")]
PAIR_TO_COME = {"prompt": PROMPT, "chosen": SAID[0], "rejected": SAID[1]}


@dataclass(frozen=True)
class RowsToCome:
    """The rows that a data stage will write.

    Attributes:
        example: a row with the columns that every row will have.
        carried: gives the part of a row that was read that is in the row that is written; None: none is.
    """

    example: Mapping[str, Any]
    carried: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def may_have(self, column: str) -> bool:
        """Whether the rows may have a column: False if they certainly lack it."""
        return column in self.example or (self.carried is not None and column in self.carried({column: None}))
