"""Few-shot examples that never include the evaluated item."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval.api.samplers import ContextSampler

from alignment.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.task import Task


class CleanSampler(ContextSampler):
    """A task's own sampler, which draws again if an example has the prompt of the item.

    lm-eval leaves out a row equal to the item, and only if examples and items come from the same test split. This
    sampler never draws an example with the item's prompt; if the examples are another split, none with the prompt of
    any item.

    Args:
        task: a task with its own sampler set.
    """

    def __init__(self, task: Task):
        self.task, self.own = task, task.sampler
        self.asked: set[str] | None = None
        self.repeats: Counter[str] | None = None

    def set_rnd(self, rnd: int | None) -> CleanSampler:
        self.own.set_rnd(rnd)
        return self

    def sample(self, n: int, eval_doc: dict | None = None, df: object = None, **_: object) -> Sequence[dict]:
        """Draw `n` examples; `eval_doc` is the item if the examples are drawn from the items themselves."""
        self.require(n, among_items=eval_doc is not None)  # lm-eval's sampler fails without other rows
        drawn = self.own.sample(n, eval_doc=eval_doc)
        asked = self._asked() if eval_doc is None else {self._prompt(eval_doc)}
        if not any(self._prompt(row) in asked for row in drawn):
            return drawn
        others = [row for row in self.own.df if self._prompt(row) not in asked]
        if len(others) < n:
            self._refuse(n, len(others))
        return copy.copy(self.own).replace_df(others).sample(n)

    def require(self, n: int, among_items: bool) -> None:
        """Raise a UserError if there are fewer than `n` rows; of items, with other prompts than each of them."""
        there = len(self.own.df)
        if among_items and n:
            if self.repeats is None:
                self.repeats = Counter(self._prompt(row) for row in self.own.df)
            there -= max(self.repeats.values(), default=0)
        if there < n:
            self._refuse(n, there)

    def _asked(self) -> set[str]:
        if self.asked is None:
            self.asked = {self._prompt(row) for row in self.task.eval_docs}
        return self.asked

    def _prompt(self, row: dict) -> str:
        text = self.task.doc_to_text(row)
        return text if isinstance(text, str) and text.strip() else json.dumps(row, sort_keys=True, default=str)

    def _refuse(self, wanted: int, there: int) -> None:
        raise UserError(
            f"Task {self.task.task_name!r} has too few few-shot examples that are not test items.",
            got=f"{there} rows",
            expected=f"{wanted} per item",
            fix="set a smaller num_fewshot, or add a training split",
        )
