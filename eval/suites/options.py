"""Read the rows of a suite: from the user's `data`, or from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.errors import UserError, raise_all, unknown
from eval.suite_rows.local_rows import no_rows

if TYPE_CHECKING:
    from datasets import Dataset


def rows_of(
    suite: str,
    hub: str | None,
    split: str,
    suite_args: dict | None,
    columns: Sequence[str] = (),
    file: str = "a file of its rows",
) -> Dataset:
    """Read the rows of `data` (a file or folder), or by default of a data set on the hub.

    Args:
        suite: the suite's name, for messages.
        hub: id of the data set on the hub; None if the suite has none.
        split: split of the data set on the hub.
        suite_args: the suite's options.
        columns: columns that the rows of `data` must have.
        file: description of `data`, for a suite without a data set on the hub.

    Raises:
        UserError: an option other than `data`; no data for a suite without a data set on the hub; rows that lack a
            column.
    """
    from alignment.data.reading.arrow_cache import NoRowsError
    from alignment.data.reading.files import local_files, read_files
    from alignment.data.reading.sources import load_source

    options = dict(suite_args or {})
    data = options.pop("data", None)
    raise_all([unknown(f"option of the suite {suite}", key, ("data",), expected="data") for key in options])
    if data is None:
        if hub is None:
            raise UserError(f"The suite {suite} needs data.", expected=file, fix=f"--suite '{suite}?data=FILE'")
        return load_source(hub, split=split, kind="prompts")
    try:
        rows = read_files(local_files(str(data)))
    except NoRowsError:
        raise no_rows(data) from None
    if missing := [name for name in columns if name not in rows.column_names]:
        raise UserError(
            f"The suite {suite} cannot read these rows: no {', '.join(missing)}.",
            got=f"columns {', '.join(rows.column_names)} of {data}",
            expected=", ".join(columns),
        )
    return rows
