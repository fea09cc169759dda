"""JSON and JSON lines files as Arrow tables.

JSON lines are streamed. A `.json` file with one list is parsed as a whole, unlike all other files.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data.reading.opening import decode, opened
from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables of files with one object per line or one list of objects; the columns are the union of all keys.

    The files are read twice: first for the columns and their types, then for the rows. A column with objects or with
    values of several types is kept as JSON, which preserves its values exactly.
    """
    import pyarrow
    from datasets import Features

    from alignment.data.reading.arrow_cache import batches

    types: dict[str, pyarrow.DataType] = {}
    for rows in batches(_sized_rows(files)):
        for name, values in _columns(rows).items():
            types[name] = merged_type(types.get(name, pyarrow.null()), column_type(values))
    schema = Features.from_arrow_schema(pyarrow.schema(types)).arrow_schema
    for rows in batches(_sized_rows(files)):
        columns = _columns(rows, schema.names)
        yield pyarrow.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def json_rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the objects of files as they are written, without columns and their types: 7 stays 7 next to 2.5."""
    return (row for row, _size in _sized_rows(files))


def column_type(values: list[Any]) -> pyarrow.DataType:
    """Return the Arrow type that represents all values exactly; JSON for objects, or if there is none."""
    import pyarrow

    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {str}:
        return pyarrow.string()
    if len(kinds) > 1 and kinds != {int, float}:
        return pyarrow.json_()
    try:
        found = pyarrow.array(values).type
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError, OverflowError):
        return pyarrow.json_()
    # Not a struct: Arrow would add the keys of all objects to each of them.
    return pyarrow.json_() if "struct<" in str(found) else found


def merged_type(one: pyarrow.DataType, other: pyarrow.DataType) -> pyarrow.DataType:
    """Return the type of a column from the types of two of its batches."""
    import pyarrow

    if pyarrow.types.is_null(one) or one == other:
        return other
    if pyarrow.types.is_null(other):
        return one
    if {str(one), str(other)} == {"int64", "double"}:
        return pyarrow.float64()
    if pyarrow.types.is_list(one) and pyarrow.types.is_list(other):
        inner = merged_type(one.value_type, other.value_type)
        return pyarrow.json_() if inner == pyarrow.json_() else pyarrow.list_(inner)
    return pyarrow.json_()


def _array(values: list[Any], type: pyarrow.DataType) -> pyarrow.Array:
    import pyarrow

    if type == pyarrow.json_():
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        return pyarrow.ExtensionArray.from_storage(type, pyarrow.array(texts, pyarrow.string()))
    return pyarrow.array(values, type)


def _columns(rows: list[dict[str, Any]], names: Iterable[str] | None = None) -> dict[str, list[Any]]:
    names = names or dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _sized_rows(files: list[Path]) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the objects of the files, each with its size as text."""
    for file in files:
        with opened(file) as stream:
            head = []
            for line in stream:
                head.append(line)
                if line.removeprefix(BYTE_ORDER_MARK).strip():
                    break
            if b"".join(head).removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["):
                yield from _list_rows(file, b"".join(head) + stream.read())
            else:
                yield from _line_rows(file, itertools.chain(head, stream))


def _list_rows(file: Path, data: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    lines = [decode(file, line, number) for number, line in enumerate(data.split(b"\n"), start=1)]
    values = _parse_json(file, "\n".join(lines), 1)
    size = len(data) // max(1, len(values))
    halves = bool(HALF_CHARACTER.search(data))
    for number, value in enumerate(values, start=1):
        yield _check_object(file, value, f"item {number}", check_halves=halves), size


def _line_rows(file: Path, lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
    # Lines of bytes end only at \n; strings may contain separators such as U+2028.
    for number, line in enumerate(lines, start=1):
        text = decode(file, line, number).removesuffix("\n")
        if text.strip():
            value = _parse_json(file, text, number)
            halves = bool(HALF_CHARACTER.search(line))
            yield _check_object(file, value, f"line {number}", check_halves=halves), len(line)


def _parse_json(file: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file} is not valid JSON at line {line + error.lineno - 1}, column {error.colno}: {error.msg}.",
            got=repr(text[max(0, error.pos - 30) : error.pos + 30]),
            expected="one JSON object per line, or one list of objects",
            fix="correct that line",
        ) from None


def _check_object(file: Path, value: Any, where: str, *, check_halves: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f"{file} contains something other than an object at {where}.",
            got=f"{type(value).__name__}: {str(value)[:60]}",
            expected='objects with named columns, such as {"text": "..."}',
        )
    try:
        if check_halves:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{file} contains half a character at {where}.",
            got=f"the escape \\u{ord(error.object[error.start]):04x} (a lone surrogate)",
            expected="text that can be encoded as UTF-8",
            fix="correct or delete the escape",
        ) from None
    return value
