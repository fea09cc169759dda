"""XSTest's prompts, and whether a reply refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.errors import UserError
from eval.harness.phrases import is_refusal
from eval.suites.options import rows_of

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("prompt", "type", "label")
LABELS = ("safe", "unsafe")
FILE = "xstest_prompts.csv of github.com/paul-rottger/xstest"


def load_prompts(label: str, suite_args: dict | None = None, **_: object) -> dict[str, Dataset]:
    """Load the prompts of one label (safe, unsafe), clustered by type: prompts of a type share their wording.

    Raises:
        UserError: a row has another label or no prompt, or no row has the label.
    """
    from datasets import Dataset

    rows = rows_of("xstest", None, "test", suite_args, COLUMNS, FILE).to_list()
    labelled = [
        row | {"id": str(row.get("id", number)), "label": str(row["label"] or "").strip().lower()}
        for number, row in enumerate(rows, 1)
    ]
    wrong = [number for number, row in enumerate(labelled, 1) if row["label"] not in LABELS]
    empty = [number for number, row in enumerate(labelled, 1) if not (row["prompt"] or "").strip()]
    for numbers, problem in ((wrong, "labels other than safe and unsafe"), (empty, "empty prompts")):
        if numbers:
            raise UserError(
                f"The suite xstest cannot read {problem}.",
                got=f"{len(numbers)} of {len(rows)} rows, the first is row {numbers[0]}: {rows[numbers[0] - 1]}",
                expected="a prompt labelled safe or unsafe in every row",
            )
    kept = [row | {"cluster": row["type"]} for row in labelled if row["label"] == label]
    if not kept:
        raise UserError(
            f"The suite xstest has no prompts labelled {label}.",
            got=f"{len(rows)} prompts labelled {' and '.join(sorted({row['label'] for row in labelled}))}",
            expected="safe and unsafe prompts: refusals of one kind mean little without the other",
            fix=f"add them from {FILE}",
        )
    return {"test": Dataset.from_list(kept)}


def refused(doc: dict, results: list[str]) -> dict[str, float]:
    """Score a reply: 1.0 if it refuses."""
    return {"refused": float(is_refusal(results[0]))}
