"""The card of a data stage's rows: README.md with the hub's front matter, where the rows come from, and examples."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from alignment.redaction import redact_text

LONGEST = 600  # characters of an example


def write_data_card(
    folder: Path,
    stage: str,
    method: str,
    parents: Mapping[str, str],
    source: str,
    account: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
) -> None:
    """Write README.md.

    Args:
        parents: recipe key -> the stage, path or hub id of what made the rows.
        source: the data set that was read.
        account: {read, rows, kind, counts, tokens}.
        examples: some rows.
    """
    front = DatasetCardData(tags=["alignment-pipeline", method])
    counts = [f"| {reason} | {count:,} |" for reason, count in sorted(account["counts"].items())]
    lines = [
        f"# {stage}",
        "",
        f"{account['rows']:,} rows ({account['kind']}), made by the {method} stage of {account['read']:,} rows of "
        f"`{source}`.",
        "",
        *[f"- `{key}`: {name}" for key, name in parents.items()],
        "",
        *(["| what | number |", "|---|---|", *counts, ""] if counts else []),
        "```python",
        "from datasets import load_dataset",
        "",
        'rows = load_dataset("parquet", data_files="train-*.parquet", split="train")',
        "```",
        "",
        "## Examples",
        "",
        *[f"```json\n{shown(row)}\n```" for row in examples],
    ]
    card = DatasetCard(f"---\n{front.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n")
    (folder / "README.md").write_text(redact_text(str(card)), encoding="utf-8")


def shown(row: Mapping[str, Any]) -> str:
    """A row as JSON, cut to LONGEST characters."""
    text = json.dumps(row, ensure_ascii=False)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
