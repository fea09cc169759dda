"""What is known of a data stage's rows and questions before it has run, for checks and estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from alignment.tokenization.chat_format import Messages

PROMPT = [{"role": "user", "content": "What is the capital of France?"}]
SAID = [[{"role": "assistant", "content": text}] for text in ("It is Paris.", "Paris.")]
PAIR_TO_COME = {"prompt": PROMPT, "chosen": SAID[0], "rejected": SAID[1]}


@dataclass(frozen=True)
class RowsToCome:
    """The rows that a data stage will write.

    Attributes:
        example: a row with the columns that every row will have.
        carried: gives the part of a row that was read that is in the row that is written; None: none is.
        per_row: rows that are written for a row that is read, at most.
    """

    example: Mapping[str, Any]
    carried: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    per_row: int = 1

    def may_have(self, column: str) -> bool:
        """Whether the rows may have a column: False if they certainly lack it."""
        return column in self.example or (self.carried is not None and column in self.carried({column: None}))


@dataclass(frozen=True)
class Asking:
    """What a judge or critic will be asked.

    Attributes:
        per_row: questions to each model about a row.
        how: `per_row` as a product, in words.
        model_key: the recipe key of the local model whose cost is estimated.
        answer_tokens: of an answer of that model at most.
        endpoints: that are asked, a request per question.
        questions: the questions about a row, as conversations; the lengths of replies that do not exist yet are counted
            apart, by `replies`.
        replies: the largest number of replies that each question shows.
        max_requests: of the recipe.
    """

    per_row: int
    how: str
    model_key: str
    answer_tokens: int
    endpoints: int
    questions: Callable[[Mapping[str, Any]], list[Messages]]
    replies: int
    max_requests: int | None = None
