"""XSTest's prompts, and whether a reply refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.harness.phrases import is_refusal
from eval.suites.options import rows_of

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("id", "prompt", "type", "label")
FILE = "xstest_prompts.csv of github.com/paul-rottger/xstest"


def load_prompts(label: str, suite_args: dict | None = None, **_: object) -> dict[str, Dataset]:
    """Load the prompts of one label (safe, unsafe), clustered by type: prompts of a type share their wording."""
    from datasets import Dataset

    rows = rows_of("xstest", None, "test", suite_args, COLUMNS, FILE).to_list()
    kept = [row | {"id": str(row["id"]), "cluster": row["type"]} for row in rows if row["label"] == label]
    return {"test": Dataset.from_list(kept)}


def refused(doc: dict, results: list[str]) -> dict[str, float]:
    """Score a reply: 1.0 if it refuses."""
    return {"refused": float(is_refusal(results[0]))}
