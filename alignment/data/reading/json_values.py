"""Values and rows of JSON text.

What Python's parser accepts silently or fails at is named with its place. A file that is one object holds rows under a
key, columns, a layout of pandas, or one row.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path
from typing import Any

from alignment.data.reading.row_formats import DIALOGUES, READ_COLUMNS
from alignment.errors import UserError

logger = logging.getLogger(__name__)

Row = dict[str, Any]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SMALLEST, LARGEST = -(2**63), 2**64 - 1  # whole numbers that Arrow and datasets' JSON hold
SURE_DIGITS = 18
SPACE = re.compile(r"[ \t\n\r]*")
SPLIT_KEYS = {"columns", "index", "data"}  # of pandas' to_json(orient="split")
SHOWN = 8  # keys in a message


class NameTwiceError(ValueError):
    """An object has a name twice; the argument is the name."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise NameTwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _whole_number(digits: str) -> int | str:
    """Return a whole number, or its digits as text if it has more than 64 bits, which no column can hold."""
    if len(digits) <= SURE_DIGITS or (len(digits) < 2 * SURE_DIGITS and SMALLEST <= int(digits) <= LARGEST):
        return int(digits)
    return digits


DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_int=_whole_number)


def is_object(line: bytes) -> bool:
    """Return whether a line is one object, or several."""
    try:
        return isinstance(_sequence(line.removeprefix(BYTE_ORDER_MARK).decode())[0], dict)
    except (ValueError, IndexError, RecursionError):
        return False


def parse_sequence(file: Path, text: str, line: int = 1) -> list[Any]:
    """Return the values of a text: one, or several with nothing but white space between them.

    Args:
        file: the file, for errors.
        line: the number of the text's first line in the file.

    Raises:
        UserError: the text is not JSON, or an object has a name twice, which would lose a value.
    """
    where = f"{file} at line {line}" if line > 1 or "\n" not in text.strip() else str(file)
    try:
        return _sequence(text)
    except json.JSONDecodeError as error:
        raise _invalid(file, text, line, error) from None
    except NameTwiceError as error:
        raise UserError(
            f"{where} has an object with the name {str(error)!r} twice.",
            got=f"{str(error)!r} twice in one object",
            expected="distinct names: only one of the values could be kept",
            fix="delete or rename one of the two",
        ) from None
    except RecursionError:
        raise UserError(
            f"{where} is nested too deeply.",
            got="hundreds of lists or objects inside each other",
            expected="rows of a few levels",
            fix="delete the row, or keep the deep value as text",
        ) from None


def _sequence(text: str) -> list[Any]:
    """Return the values of a text one after the other."""
    try:
        return [DECODER.decode(text)]
    except json.JSONDecodeError as error:
        if not text[error.pos :].startswith(("{", "[")) or error.msg != "Extra data":
            raise
    values, place = [], _next(text, 0)
    while place < len(text):
        value, place = DECODER.raw_decode(text, place)
        values.append(value)
        place = _next(text, place)
    return values


def _next(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    return found.end() if found else place


def _invalid(file: Path, text: str, line: int, error: json.JSONDecodeError) -> UserError:
    problem, fix = error.msg, "correct that line"
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if "\0" in text[error.pos : error.pos + 2]:
        problem, fix = "a null byte", "delete the line: the program that wrote the file was interrupted there"
    elif after.startswith(("]", "}")) and before.endswith(","):
        problem, fix = "a comma before a closing bracket", "delete the comma"
    elif error.msg == "Extra data" and after.startswith(","):
        new = shlex.quote(str(file.with_name(f"corrected-{file.name}")))
        problem = "a comma after the object"
        fix = f"delete the commas at the ends of lines: sed -E 's/,[[:space:]]*$//' {shlex.quote(str(file))} > {new}"
    elif text.lstrip().startswith(("{'", "[{'")):
        fix = "the line is in Python's notation, not JSON: write the rows with json.dumps"
    return UserError(
        f"{file} is not valid JSON at line {line + error.lineno - 1}, column {error.colno}: {problem}.",
        got=repr(text[max(0, error.pos - 30) : error.pos + 30]),
        expected="one JSON object per line, or one list of objects",
        fix=fix,
    )


def check_object(file: Path, value: Any, where: str, *, check_halves: bool) -> dict[str, Any]:
    """Return a row, which must be an object whose texts can be encoded.

    Args:
        where: the row's place in the file, for errors.
        check_halves: look for halves of characters (lone surrogates).
    """
    if not isinstance(value, dict):
        raise refuse_value(file, value, where)
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


def refuse_value(file: Path, value: Any, where: str) -> UserError:
    """Return the error for a value that is no row."""
    messages = isinstance(value, list) and value and isinstance(value[0], dict)
    return UserError(
        f"{file} contains something other than an object at {where}.",
        got=f"{type(value).__name__}: {str(value)[:60]}",
        expected='objects with named columns, such as {"text": "..."}',
        fix='write each list of messages as {"messages": [...]}' if messages else "name the values, as columns",
    )


# Files that are one object ------------------------------------------------------------------------------------------


def rows_of_object(file: Path, value: Row) -> list[Any]:
    """Return the rows of a file with one object.

    Raises:
        UserError: the object can be understood in several ways; the keys are named.
    """
    values = list(value.values())
    if _is_row(value):
        return [value]
    if {"columns", "data"} <= value.keys() <= SPLIT_KEYS and _all(value["data"], list):
        return _rows_of_split(file, value["columns"], value["data"])
    if _all(values, dict):
        return _rows_of_objects(file, value)
    lists = [key for key, items in value.items() if isinstance(items, list) and _all(items, dict)]
    if _all(values, list) and len(lists) < len(values):
        return _rows_of_columns(file, {key: list(items) for key, items in value.items()})
    if len(lists) > 1:
        raise UserError(
            f"{file} has rows under several keys: {', '.join(lists)}.",
            got=f"an object with the keys {_shown(value)}",
            expected="one list of objects",
            fix="write each of the lists to a file of its own, such as " + " and ".join(f"{key}.json" for key in lists),
        )
    if lists and len(value) > 1:
        others = ", ".join(key for key in value if key != lists[0])
        logger.info("%s: the rows are those under %s; not read: %s", file, lists[0], others)
    return value[lists[0]] if lists else [value]


def _is_row(value: Row) -> bool:
    """Return whether an object is a row itself: a column that is read holds text, or some column is a conversation."""
    if any(name in READ_COLUMNS and not isinstance(item, list | dict) for name, item in value.items()):
        return True
    if any(_all(value.get(name), dict) for name in DIALOGUES):
        return True
    return any(
        isinstance(item, list) and _all(item, dict) and any(sign in item[0] for sign in ("role", "from"))
        for item in value.values()
    )


def _rows_of_columns(file: Path, columns: dict[str, list[Any]]) -> list[Any]:
    lengths = {name: len(items) for name, items in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(
            f"{file} has columns of different lengths.",
            got=", ".join(f"{name}: {length}" for name, length in lengths.items()),
            expected="columns of one length, or a list of rows",
            fix="complete the shorter columns, or write the rows as a list of objects",
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows_of_split(file: Path, columns: list[Any], rows: list[list[Any]]) -> list[Any]:
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != len(columns)), None)
    if wrong is not None:
        raise UserError(
            f"{file} has a row with another number of values than columns: row {wrong} under data.",
            got=f"{len(rows[wrong - 1])} values",
            expected=f"{len(columns)}: {', '.join(map(str, columns))}",
            fix="write the file again with pandas' to_json",
        )
    return [dict(zip(map(str, columns), row, strict=True)) for row in rows]


def _rows_of_objects(file: Path, value: Row) -> list[Any]:
    """Return the rows of {column: {index: value}} or {index: row}, as pandas writes them, or of {name: row}."""
    inner = [set(item) for item in value.values()]
    numbered = all(key.isdecimal() for item in inner for key in item)
    if numbered and not all(key.isdecimal() for key in value):
        if any(keys != inner[0] for keys in inner):
            raise _ambiguous(file, value)
        index = list(next(iter(value.values())))
        return _rows_of_columns(file, {name: [item[key] for key in index] for name, item in value.items()})
    if all(key.isdecimal() for key in value) or READ_COLUMNS & set.intersection(*inner):
        return list(value.values())
    raise _ambiguous(file, value)


def _ambiguous(file: Path, value: Row) -> UserError:
    return UserError(
        f"{file} does not show which values are rows.",
        got=f"an object of objects with the keys {_shown(value)}",
        expected="a list of objects, one object per line, or {column: [values]}",
        fix="write the rows as a list of objects",
    )


def _all(items: Any, kind: type) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(item, kind) for item in items)


def _shown(value: Row) -> str:
    return ", ".join(list(value)[:SHOWN]) + (", ..." if len(value) > SHOWN else "")
