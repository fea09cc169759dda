"""What the suites' hooks share: rows from the user's `data`, or from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.errors import UserError, raise_all, unknown

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
    """The rows of `data` (a file or folder), else of a data set on the hub.

    Args:
        columns: what the rows of `data` must have.
        file: what `data` is, where the suite has no data set on the hub.

    Raises:
        UserError: another option than `data`; no data where the suite has no data set on the hub; rows without one of
            the columns.
    """
    from alignment.data.reading.files import local_files, read_files
    from alignment.data.reading.sources import load_source

    options = dict(suite_args or {})
    data = options.pop("data", None)
    raise_all([unknown(f"option of the suite {suite}", key, ("data",), expected="data") for key in options])
    if data is None and hub is None:
        raise UserError(f"The suite {suite} needs data.", expected=file, fix=f"--suite '{suite}?data=FILE'")
    if data is None:
        return load_source(hub, split=split, kind="prompts")
    rows = read_files(local_files(str(data)))
    if missing := [name for name in columns if name not in rows.column_names]:
        raise UserError(
            f"The suite {suite} cannot read these rows: no {', '.join(missing)}.",
            got=f"columns {', '.join(rows.column_names)} of {data}",
            expected=", ".join(columns),
        )
    return rows
