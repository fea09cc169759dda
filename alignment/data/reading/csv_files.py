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
    """Yield tables of comma- or tab-separated files with a header line; all values are text, including empty ones."""
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
    """Yield the header of a CSV file, then its rows, which all have the same number of values."""
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
                        f"Cannot read {file}: line {reader.line_num} and the header differ in their number of values.",
                        got=f"{len(row)} values",
                        expected=f"{len(header)}: {', '.join(header)}",
                        fix="quote values that contain a separator, and write missing values as empty",
                    )
                yield row
        except csv.Error as error:
            raise UserError(
                f"Cannot read {file} at line {reader.line_num}.", got=str(error), expected="a header line and rows"
            ) from None
    if not header or len(set(header)) < len(header):
        raise UserError(
            f"Cannot read {file}.", got=f"the header {header}", expected="a header line with distinct names"
        )


@contextmanager
def _long_fields() -> Iterator[None]:
    """Allow values of any length within the context; the csv module's default limit is 128 KiB."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
