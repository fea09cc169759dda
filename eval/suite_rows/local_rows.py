"""Rows of a suite's local files, in the columns that its tasks read: the hub's, whatever the authors' files have."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError
from eval.suite_rows.authors_formats import in_hub_columns
from eval.suite_rows.needed_columns import Needs

if TYPE_CHECKING:
    from datasets import Dataset

SUBJECT = "subject"  # MMLU's column with the task of a row, if one file holds several tasks
LABEL_FILES = ("{}-labels.lst", "{}_labels.lst", "{}-labels.txt", "{}.labels")  # as PIQA's, SocialIQA's and aNLI's
WRAPPERS = ("examples", "data", "rows", "questions", "items", "instances")  # keys of a list with all rows of a file
HENDRYCKS = ("question", "A", "B", "C", "D", "answer")  # MMLU's CSV files, which have no header


def rows_as_written(file: Path) -> list[dict[str, Any]]:
    """Read all rows of a file as Python values; JSON's values as the file has them, whatever the other rows have."""
    from alignment.data.reading.arrow_cache import NoRowsError
    from alignment.data.reading.files import read_files
    from alignment.data.reading.json_files import json_rows
    from alignment.data.reading.opening import extension_of

    if extension_of(file) in (".json", ".jsonl"):
        return _without_wrapper(list(json_rows([file])))
    try:
        return read_files([file]).to_list()
    except NoRowsError:
        return []


def no_rows(place: object) -> UserError:
    """The error for data without rows."""
    return UserError(f"{place} contains no rows.", expected="at least one row", fix="check the file")


def read_local(
    files: dict[str, list[str]],
    subject: str | None = None,
    needs: Needs | None = None,
    **_: object,
) -> dict[str, Dataset]:
    """The `custom_dataset` function of packaged tasks on local files.

    Args:
        files: split -> paths.
        subject: only rows of this subject.
        needs: what the task reads of a row.

    Returns:
        Split -> rows.
    """
    needs = needs or Needs()
    splits = {}
    for split, paths in files.items():
        rows = _task_rows([Path(path) for path in paths], needs)
        splits[split] = rows if subject is None else rows.filter(lambda row: row[SUBJECT] == subject)
    return splits


def subjects_of(file: Path) -> Counter[str]:
    """The subjects of a file that holds several tasks, and their numbers of rows; none without such a column."""
    rows = _raw_rows([file])
    return Counter(map(str, rows[SUBJECT])) if SUBJECT in rows.column_names else Counter()


def _task_rows(files: list[Path], needs: Needs) -> Dataset:
    from datasets import concatenate_datasets

    parts = [_with_labels(_raw_rows([file]), file, needs) for file in files]
    rows = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    place = files[0] if len(files) == 1 else files[0].parent
    found = in_hub_columns(rows, needs, place)
    if found is None and (found := _decoded(rows, needs)) is None:
        return rows
    return _one_type(found, place)


def _one_type(rows: list[dict], place: object) -> Dataset:
    """A data set of the rows.

    Raises:
        UserError: a column has values of different types.
    """
    from datasets import Dataset
    from pyarrow import ArrowException

    try:
        return Dataset.from_list(rows)
    except ArrowException as error:
        raise UserError(
            f"{place} has a column with values of different types.",
            got=str(error).splitlines()[0],
            expected="texts alone, or numbers alone",
            fix="write the column alike in every row",
        ) from error


def _raw_rows(files: list[Path]) -> Dataset:
    """The rows of a file, out of a wrapper such as BIG-Bench Hard's {canary, examples: [...]}."""
    from datasets import Dataset

    from alignment.data.reading.arrow_cache import NoRowsError
    from alignment.data.reading.files import read_files
    from alignment.data.reading.json_files import json_rows
    from alignment.data.reading.opening import extension_of

    extension = extension_of(files[0])
    if extension == ".txt":  # LAMBADA's: a passage per line
        lines = _text_lines(files[0])
        if lines[0].lstrip().startswith("{"):  # RACE's: JSON in a file named .txt
            return Dataset.from_list(list(json_rows([files[0]])))
        return Dataset.from_dict({"text": lines})
    if extension == ".csv" and (headless := _headless(files[0])):
        return Dataset.from_list(headless)
    try:
        rows = read_files(files)
    except NoRowsError:
        raise no_rows(files[0]) from None
    if extension == ".json" and len(rows) == 1 and len(inner := _without_wrapper(rows.to_list())) > 1:
        return Dataset.from_list(inner)
    return rows


def _text_lines(file: Path) -> list[str]:
    from alignment.data.reading.opening import opened_text

    with opened_text(file) as stream:
        lines = [line.strip() for line in stream if line.strip()]
    if not lines:
        raise no_rows(file)
    return lines


def _headless(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of MMLU's authors: question, four choices and a letter, without a header."""
    from alignment.data.reading.opening import opened_text

    with opened_text(file) as stream:
        lines = csv.reader(stream)
        first = next(lines, [])
        if len(first) != len(HENDRYCKS) or first[-1].strip() not in HENDRYCKS[1:5] or first[1] == "A":
            return []
        rows = [first, *lines]
    wrong = next((number for number, row in enumerate(rows, 1) if row and len(row) != len(HENDRYCKS)), None)
    if wrong:
        raise UserError(
            f"{file} is MMLU's CSV without a header, but row {wrong} has other columns.",
            got=f"{len(rows[wrong - 1])} values",
            expected=", ".join(HENDRYCKS),
        )
    return [dict(zip(HENDRYCKS, row, strict=True)) for row in rows if row]


def _without_wrapper(rows: list[dict]) -> list[dict]:
    """The list of objects in a file's only object, such as BIG-Bench Hard's `examples`; otherwise the rows."""
    found = [rows[0][key] for key in WRAPPERS if isinstance(rows[0].get(key), list)] if len(rows) == 1 else []
    lists = [values for values in found if values and all(isinstance(value, dict) for value in values)]
    return lists[0] if len(lists) == 1 else rows


def _with_labels(rows: Dataset, file: Path, needs: Needs) -> Dataset:
    """The rows with the only column that they lack from a file of labels next to theirs."""
    missing = sorted(needs.columns - set(rows.column_names))
    places = (file.with_name(pattern.format(file.name.split(".")[0])) for pattern in LABEL_FILES)
    labels_file = next((place for place in places if place.is_file()), None)
    if len(missing) != 1 or labels_file is None:
        return rows
    labels: list[Any] = _text_lines(labels_file)
    if len(labels) != len(rows):
        raise UserError(
            f"{labels_file} does not have a label for every row of {file}.",
            got=f"{len(labels)} labels for {len(rows)} rows",
            expected="one label per line, in the order of the rows",
        )
    are_numbers = needs.target == missing[0] and all(map(str.isdigit, labels))
    return rows.add_column(missing[0], [int(x) for x in labels] if are_numbers else labels)


def _decoded(rows: Dataset, needs: Needs) -> list[dict] | None:
    """Rows with numbers and lists instead of texts that stand for them, as CSV files have them; None if there are none.

    The label of multiple choice is the number of a choice if it is a text of digits and none of the row's values.
    """
    texts = {name for name in needs.indexed & set(rows.column_names) if isinstance(rows[0][name], str)}
    numbers = needs.target if needs.target and _are_numbers(rows, needs) else None
    if not texts and not numbers:
        return None
    decoded = [
        {
            name: int(value) if name == numbers else _json_list(value) if name in texts else value
            for name, value in row.items()
        }
        for row in rows
    ]
    for name in sorted(texts):
        wrong = [number for number, row in enumerate(decoded, 1) if isinstance(row[name], str)]
        if wrong:
            raise UserError(
                f"The column {name} must hold lists or objects.",
                got=f"text in {len(wrong)} of {len(rows)} rows, in row {wrong[0]}: {rows[wrong[0] - 1][name]}",
                expected='JSON, such as ["red", "green"]',
                fix=f"write {name} as JSON",
            )
    return decoded


def _are_numbers(rows: Dataset, needs: Needs) -> bool:
    label = needs.target
    if label is None or label not in rows.column_names or not needs.is_choice:
        return False
    values = rows[label][:]
    if not all(isinstance(value, str) and value.isascii() and value.isdigit() for value in values):
        return False
    pairs = zip(values, rows, strict=True)
    return not all(value in needs.fixed_choices or _holds(row, label, value) for value, row in pairs)


def _holds(row: dict, label: str, value: str) -> bool:
    others = [other for name, other in row.items() if name != label]
    return any(value == other or (isinstance(other, list) and value in other) for other in others)


def _json_list(text: Any) -> Any:
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, TypeError):
        return text
    return found if isinstance(found, (list, dict)) else text
