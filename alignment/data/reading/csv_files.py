"""CSV and TSV files as Arrow tables."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.data.reading.opening import extension_of, opened_text
from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow

LONGEST_FIELD = 2**31 - 1


def read_csv(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Comma- or tab-separated files with a header line; every value is text, the empty ones too."""
    import pyarrow
    from datasets import Features, Value

    from alignment.data.reading.arrow_cache import batches

    names = dict.fromkeys(name for file in files for name in next(_csv_rows(file)))
    schema = Features(dict.fromkeys(names, Value("string"))).arrow_schema
    for file in files:
        lines = _csv_rows(file)
        header = next(lines)
        for rows in batches((row, sum(map(len, row))) for row in lines):
            columns = dict(zip(header, zip(*rows, strict=True), strict=True))
            missing = [None] * len(rows)
            arrays = [pyarrow.array(columns.get(name, missing), pyarrow.string()) for name in names]
            yield pyarrow.Table.from_arrays(arrays, schema=schema)


def _csv_rows(file: Path) -> Iterator[list[str]]:
    """The header of a CSV file and its rows, which all have as many values."""
    separator = "\t" if extension_of(file) == ".tsv" else ","
    header: list[str] = []
    with opened_text(file) as stream, _long_fields():
        reader = csv.reader(stream, delimiter=separator, strict=True)
        try:
            for row in reader:
                if not row:  # a blank line
                    continue
                header = header or row
                if len(row) != len(header):
                    raise UserError(
                        f"Cannot read {file}: line {reader.line_num} has not as many values as the header.",
                        got=f"{len(row)} values",
                        expected=f"{len(header)}: {', '.join(header)}",
                        fix="quote values that hold a separator, and write missing ones as empty",
                    )
                yield row
        except csv.Error as error:
            raise UserError(
                f"Cannot read {file} at line {reader.line_num}.", got=str(error), expected="a header line and rows"
            ) from None
    if not header or len(set(header)) < len(header):
        raise UserError(f"Cannot read {file}.", got=f"the header {header}", expected="a header line of different names")


@contextmanager
def _long_fields() -> Iterator[None]:
    """Values of any length, where the csv module has a limit of 128 KiB."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
