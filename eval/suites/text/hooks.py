"""Documents of the text suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def load_documents(suite_args: dict | None = None, **_: object) -> dict[str, Dataset]:
    """Load the documents of `data`: any source of text that pretraining reads (files, folders, tinyworld, the hub).

    `split` names the split of a source with several splits. Text files are cut at blank lines into documents of about
    4,000 characters, each scored separately.
    """
    from alignment.data.reading.formats import convert
    from alignment.data.reading.sources import load_source

    options = dict(suite_args or {})
    data, split = options.pop("data", None), options.pop("split", None)
    if data is None or options:
        raise UserError(
            "The text suite needs data.",
            got=", ".join(["no data", *options]) if data is None else ", ".join(options),
            expected="data, and split if the data has several splits",
            fix="--suite 'text?data=FILE'",
        )
    rows, _report = convert(load_source(str(data), split=split, kind="text"), "text")
    return {"test": rows}
