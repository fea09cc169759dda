"""What the suites' hooks share: rows from the user's `data`, or from the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def rows_of(suite: str, hub: str | None, split: str, suite_args: dict | None) -> Dataset:
    """The rows of `data` (a file or folder), else of a data set on the hub.

    Raises:
        UserError: another option than `data`; no data where the suite has no data set on the hub.
    """
    from alignment.data.files import local_files, read_files
    from alignment.data.sources import load_source

    options = dict(suite_args or {})
    data = options.pop("data", None)
    if options:
        raise UserError(f"Unknown option of the suite {suite}.", got=", ".join(options), needed="data")
    if data is not None:
        return read_files(local_files(str(data)))
    if hub is None:
        raise UserError(f"The suite {suite} needs data.", mend=f"--suite '{suite}?data=FILE'")
    return load_source(hub, split=split, kind="prompts")
