"""CSV and TSV files as Arrow tables: the separator and the quoting are found in the file."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.data.reading.opening import extension_of, opened_text, refuse_null_bytes
from alignment.errors import UserError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

    import pyarrow

LONGEST_FIELD = 2**31 - 1
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
SAMPLE_CHARACTERS, SAMPLE_ROWS = 1 << 18, 100  # beginning of a file that settles the separator
EXCEL_LINE = re.compile(r"sep=(.)\n")  # a first line that names the separator for Excel


@dataclass(frozen=True)
class Form:
    """How a file is written: its separator, whether values are quoted, and lines before the header."""

    separator: str
    quoted: bool = True
    skipped: int = 0


def read_csv(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables of separated values with a header line; all values are text, including empty ones.

    The separator is the comma (`.csv`) or the tab (`.tsv`), or another one if only that one gives the first rows the
    same number of values. Values separated by tabs may be unquoted.
    """
    import pyarrow
    from datasets import Features, Value

    from alignment.data.reading.arrow_cache import batches

    forms = {file: _form(file) for file in files}
    headers = {file: next(_rows(file, form), []) for file, form in forms.items()}
    names = dict.fromkeys(name for header in headers.values() for name in header)
    refuse_null_bytes(names)
    schema = Features(dict.fromkeys(names, Value("string"))).arrow_schema
    for file, header in headers.items():
        for rows in batches((row, sum(map(len, row))) for row in islice(_rows(file, forms[file]), 1, None)):
            columns = dict(zip(header, zip(*rows, strict=True), strict=True))
            missing = [None] * len(rows)
            arrays = [pyarrow.array(columns.get(name, missing), pyarrow.string()) for name in names]
            yield pyarrow.Table.from_arrays(arrays, schema=schema)


def _rows(file: Path, form: Form) -> Iterator[list[str]]:
    """Yield the names of the columns, then the rows, which all have as many values; of an empty file nothing."""
    names: list[str] = []
    with opened_text(file) as stream, _long_fields():
        reader = _reader(islice(stream, form.skipped, None), form, strict=True)
        try:
            for row in reader:
                if not row:  # a blank line
                    continue
                if not names:
                    names = _names(file, row)
                    yield names
                    continue
                if len(row) != len(names):
                    raise _wrong_count(file, reader.line_num + form.skipped, row, names, form)
                yield row
        except csv.Error as error:
            raise _wrong_quotes(file, reader.line_num + form.skipped, error, form) from None


def _names(file: Path, header: list[str]) -> list[str]:
    """Return the names of the columns: without white space round them, and `Unnamed: NUMBER` where there is none."""
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(header)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"{file} has several columns with one name: {', '.join(twice)}.",
            got=f"the header {', '.join(names)}",
            expected="a header line with distinct names",
            fix="rename the columns in the first line",
        )
    return names


# The form of a file -------------------------------------------------------------------------------------------------


def _form(file: Path) -> Form:
    usual = "\t" if extension_of(file) == ".tsv" else ","
    with opened_text(file) as stream, _long_fields():
        lines = stream.readlines(SAMPLE_CHARACTERS)
    named = EXCEL_LINE.fullmatch(lines[0]) if lines else None
    form = Form(named[1], skipped=1) if named else Form(_separator(lines, usual))
    return form if form.separator != "\t" or _is_quoted(file, form) else Form("\t", False, form.skipped)


def _separator(lines: Sequence[str], usual: str) -> str:
    """Return the only separator by which the first rows have the same number of values, at least 2; or the usual."""
    fitting = [separator for separator in SEPARATORS if _fits(lines, Form(separator))]
    fitting += ["\t"] if "\t" not in fitting and _fits(lines, Form("\t", quoted=False)) else []
    return fitting[0] if len(fitting) == 1 and usual not in fitting else usual


def _fits(lines: Sequence[str], form: Form) -> bool:
    with _long_fields():
        rows = [row for row in islice(_reader(lines, form, strict=False), SAMPLE_ROWS) if row]
    # The last line of a sample may be within a value that is quoted.
    counts = {len(row) for row in (rows[:-1] if len(rows) > SAMPLE_ROWS // 2 else rows)}
    return len(counts) == 1 and min(counts) > 1


def _is_quoted(file: Path, form: Form) -> bool:
    """Return whether tab-separated values are quoted as in CSV, rather than written as they are.

    A quote that opens a value of one row may close in another, and both readings succeed: if all lines have the number
    of values of the header, each is a row.
    """
    try:
        quoted = sum(1 for _ in _rows(file, form))
    except UserError:
        quoted = None
    try:
        unquoted = sum(1 for _ in _rows(file, Form(form.separator, False, form.skipped)))
    except UserError:
        return True
    return quoted == unquoted


def _reader(lines: Iterable[str], form: Form, *, strict: bool) -> CsvReader:
    if form.quoted:
        return csv.reader(lines, delimiter=form.separator, strict=strict)
    return csv.reader(lines, delimiter=form.separator, quoting=csv.QUOTE_NONE)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Allow values of any length within the context; the csv module's default limit is 128 KiB."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


# Errors -------------------------------------------------------------------------------------------------------------


def _wrong_count(file: Path, line: int, row: list[str], names: list[str], form: Form) -> UserError:
    separator = SEPARATORS.get(form.separator, form.separator)
    return UserError(
        f"Cannot read {file}: line {line} and the header differ in their number of values.",
        got=f"{len(row)} values, separated by the {separator}",
        expected=f"{len(names)}: {', '.join(names)}",
        fix='quote values that contain the separator or a line end ("a, b"), and write missing values as empty',
    )


def _wrong_quotes(file: Path, line: int, error: csv.Error, form: Form) -> UserError:
    return UserError(
        f"Cannot read {file} at line {line}: its quotes are not those of CSV.",
        got="a quote that is never closed" if "end of data" in str(error) else f"text after a closing quote: {error}",
        expected='a header line and rows; values in quotes have their own quotes doubled: "say ""hi"""',
        fix="double the quotes inside values and quote these values, as csv.writer does; or separate the values by "
        "tabs in a .tsv, where quotes need no escape",
    )
