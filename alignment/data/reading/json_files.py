"""JSON and JSON lines files as Arrow tables.

JSON lines are streamed. A file with one list or object is parsed as a whole, unlike all other files.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data.reading.json_values import (
    BYTE_ORDER_MARK,
    check_object,
    is_object,
    parse_sequence,
    refuse_value,
    rows_of_object,
)
from alignment.data.reading.opening import decode, opened, refuse_null_bytes
from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow

HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
EXACT_IN_FLOAT = 2**53  # whole numbers up to this size have their own floating-point number
DEEPEST_LIST = 16  # of an Arrow type; Arrow itself fails beyond 64
Sized = tuple[dict[str, Any], int]


def read_json(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables of files with one object per line or one list of objects; the columns are the union of all keys.

    The files are read twice: first for the columns and their types, then for the rows. A column with objects or with
    values of several types is kept as JSON, which preserves its values exactly.
    """
    import pyarrow
    from datasets import Features

    from alignment.data.reading.arrow_cache import batches

    types: dict[str, pyarrow.DataType] = {}
    large: set[str] = set()
    number = 0
    for rows in batches(_sized_rows(files)):
        number += len(rows)
        for name, values in _columns(rows).items():
            found = column_type(values)
            if "int64" in str(found) and largest(values) > EXACT_IN_FLOAT:
                large.add(name)
            types[name] = merged_type(types.get(name, pyarrow.null()), found)
    if number and not types:
        raise UserError(
            f"The objects of {', '.join(map(str, files))} are empty.", got=f"{number} times {{}}", expected="columns"
        )
    refuse_null_bytes(types)
    for name in large:
        types[name] = pyarrow.json_() if "double" in str(types[name]) else types[name]
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
    deep = str(found).count("list<") > DEEPEST_LIST
    return pyarrow.json_() if deep or "struct<" in str(found) else found


def largest(value: Any) -> float:
    """Return the largest size of a whole number in a value or in its lists."""
    if isinstance(value, list):
        return max(map(largest, value), default=0)
    return abs(value) if isinstance(value, int) else 0


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


def _sized_rows(files: list[Path]) -> Iterator[Sized]:
    """Yield the objects of the files, each with its size as text."""
    for file in files:
        with opened(file) as stream:
            lines = iter(stream)
            first = _to_next(lines)
            second = _to_next(lines) if _last(first).startswith(b"{") else []
            if _is_whole(_last(first), _last(second)):
                yield from _whole_rows(file, b"".join(first + second) + stream.read())
            else:
                yield from _line_rows(file, itertools.chain(first, second, lines))


def _to_next(lines: Iterator[bytes]) -> list[bytes]:
    """Return the lines up to the next one that is not blank, or to the end."""
    found: list[bytes] = []
    for line in lines:
        found.append(line)
        if _last(found):
            break
    return found


def _last(lines: list[bytes]) -> bytes:
    return lines[-1].removeprefix(BYTE_ORDER_MARK).strip() if lines else b""


def _is_whole(first: bytes, second: bytes) -> bool:
    """Return whether a file is one value, or objects that extend over lines, given its first two lines with text.

    A damaged first line does not make it so if the second is an object.
    """
    if not first.startswith(b"{"):
        return first.startswith(b"[")
    return not second if is_object(first) else not is_object(second)


def _whole_rows(file: Path, data: bytes) -> Iterator[Sized]:
    text = "\n".join(decode(file, line, number) for number, line in enumerate(data.split(b"\n"), start=1))
    values = parse_sequence(file, text)
    what = "object"
    if len(values) == 1 and isinstance(values[0], list):
        values, what = values[0], "item"
    elif len(values) == 1 and isinstance(values[0], dict) and not _is_only_line(file, text, values[0]):
        values, what = rows_of_object(file, values[0]), "row"
    elif values and isinstance(values[0], list):
        raise refuse_value(file, values[0], "line 1")
    size = len(data) // max(1, len(values))
    halves = bool(HALF_CHARACTER.search(data))
    for number, value in enumerate(values, start=1):
        yield check_object(file, value, f"{what} {number}", check_halves=halves), size


def _is_only_line(file: Path, text: str, value: dict[str, Any]) -> bool:
    """Whether an object of several keys is the only line of a file that is named as one of a row per line."""
    named = bool({".jsonl", ".ndjson"} & {suffix.lower() for suffix in file.suffixes})
    return named and len(value) > 1 and "\n" not in text.strip()


def _line_rows(file: Path, lines: Iterable[bytes]) -> Iterator[Sized]:
    # Lines of bytes end only at \n; strings may contain separators such as U+2028.
    for number, line in enumerate(lines, start=1):
        text = decode(file, line, number).removesuffix("\n")
        if text.strip():
            values = parse_sequence(file, text, number)
            halves = bool(HALF_CHARACTER.search(line))
            for value in values:
                yield check_object(file, value, f"line {number}", check_halves=halves), len(line) // len(values)
