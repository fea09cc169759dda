"""Questions with and without an answer, and how well "I don't know" separates them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.errors import UserError
from eval.harness.phrases import says_unknown
from eval.suites.options import rows_of

if TYPE_CHECKING:
    from datasets import Dataset

ANSWERABLE, UNANSWERABLE = ("person_fact", "world_fact"), "unknown"
Pairs = list[tuple[bool, bool]]


def load_questions(suite_args: dict | None = None, **_: object) -> dict[str, Dataset]:
    """Load rows with `question` and `answerable` from `data`, or by default from tinyworld with `suite_args`."""
    from datasets import Dataset

    options = dict(suite_args or {})
    if "data" not in options:
        return {"test": Dataset.from_list(_tinyworld_questions(options))}
    rows = rows_of("abstention", None, "test", options)
    if not {"question", "answerable"} <= set(rows.column_names) or not all(type(x) is bool for x in rows["answerable"]):
        raise UserError(
            "The abstention suite cannot read these rows.",
            got=f"columns {', '.join(rows.column_names)} of {options['data']}",
            expected="question (text) and answerable (true or false) in every row",
        )
    return {"test": rows}


def _tinyworld_questions(options: dict) -> list[dict]:
    from eval.suites.tinyworld.hooks import load_items

    (rows,) = (rows for split, rows in load_items(suite_args=options).items() if split == "items")
    return [
        {
            "id": row["id"],
            "question": row["prompt"],
            "answerable": row["family"] in ANSWERABLE,
            "cluster": row["cluster"],
        }
        for row in rows
        if row["family"] in (*ANSWERABLE, UNANSWERABLE)
    ]


def abstains(doc: dict, results: list[str]) -> dict[str, object]:
    """Score a reply: `acc` is whether it abstains exactly if it should; other metrics get (abstains, should)."""
    pair = (says_unknown(results[0]), not doc["answerable"])
    return {"acc": float(pair[0] == pair[1]), "precision": pair, "recall": pair, "f1": pair}


def precision(pairs: Pairs) -> float:
    """The share of abstentions that are right; 0 without abstentions."""
    return _share([should for abstained, should in pairs if abstained])


def recall(pairs: Pairs) -> float:
    """The share of questions without an answer whose reply abstains; 0 without such questions."""
    return _share([abstained for abstained, should in pairs if should])


def f1(pairs: Pairs) -> float:
    """The harmonic mean of precision and recall."""
    both = precision(pairs), recall(pairs)
    return 2 * both[0] * both[1] / sum(both) if sum(both) else 0.0


def _share(flags: list[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
