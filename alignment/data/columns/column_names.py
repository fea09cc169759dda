"""Names of columns: renaming by `columns`, also of nested values, and names that reward functions cannot take."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignment.data.columns.cell_values import parsed
from alignment.errors import UserError, nearest

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

# Arguments that PPO and TRL's trainers pass to reward functions, or use themselves; a column of the same name would
# collide with the argument, or not arrive. `self` is the first argument of a method.
REWARD_ARGUMENTS = (
    *("prompt", "prompts", "completion", "completions", "completion_ids", "self"),
    *("trainer_state", "log_metric", "log_extra", "environments"),
    *("image", "images"),  # with which TRL would look for an image processor; rows with images are dropped
)

ALIKE = 0.7  # likeness of a name on the left of `columns` to the column that a fix suggests for it


def rename_columns(dataset: Dataset, columns: Mapping[str, str]) -> Dataset:
    """Rename columns by {column of the data set: recognised column}, which may replace another column.

    A name with dots that no column has is a path to a nested value: `reward_model.ground_truth`, `turns.0.text`.
    """
    wrong = sorted(repr(name) for name in columns.values() if not _can_name(name))
    if wrong:
        raise UserError(
            f"`columns` gives a column a name that none can have: {', '.join(wrong)}.",
            got=dict(columns),
            expected="text on the right, of whole characters",
            fix="write a recognised column on the right, or leave this entry out",
        )
    nested = [name for name in columns if name not in dataset.column_names]
    missing = [name for name in nested if not _leads_somewhere(dataset, name)]
    if missing:
        raise _missing(missing, dataset)
    targets = list(columns.values())
    twice = sorted({name for name in targets if targets.count(name) > 1})
    if twice:
        raise UserError(
            f"`columns` maps two columns to one name: {', '.join(twice)}.",
            got=dict(columns),
            expected="distinct names on the right",
            fix="keep one of the two",
        )
    if nested:
        dataset = _with_nested(dataset, nested)
    return dataset.remove_columns(replaced_columns(dataset, columns)).rename_columns(dict(columns))


def _can_name(name: Any) -> bool:
    """Whether a value can be a column's name: text that is not empty, without halves of characters or null bytes."""
    return isinstance(name, str) and bool(name.strip()) and not re.search("[\x00\ud800-\udfff]", name)


def replaced_columns(dataset: Dataset, columns: Mapping[str, str]) -> list[str]:
    """Return the columns whose names `columns` gives to others."""
    return [name for name in columns.values() if name in dataset.column_names and name not in columns]


def value_at(value: Any, path: Sequence[str]) -> Any:
    """Return the value at a path of keys and list positions, also in JSON text; None if there is none."""
    for key in path:
        value = parsed(value) if isinstance(value, str) else value
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def nested_names(row: Mapping[str, Any]) -> list[str]:
    """Return the paths of a row's nested values, one level deep."""
    values = {name: parsed(value) if isinstance(value, str) else value for name, value in row.items()}
    return [f"{name}.{key}" for name, value in values.items() if isinstance(value, Mapping) for key in value]


def _root_and_path(names: Sequence[str], name: str) -> tuple[str, list[str]] | None:
    """Return the column that a dotted name begins with, the longest that fits, and the path below it."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        root = ".".join(parts[:count])
        if root in names:
            return root, parts[count:]
    return None


def _leads_somewhere(dataset: Dataset, name: str) -> bool:
    """Whether any row has a value at a path."""
    found = _root_and_path(dataset.column_names, name)
    if found is None:
        return False
    root, path = found
    rows = dataset.select_columns([root]).with_format(None)
    return any(value_at(value, path) is not None for batch in rows.iter(1000) for value in batch[root])


def _with_nested(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Add nested values as columns that are named by their paths."""
    import pyarrow
    from datasets import Dataset, concatenate_datasets
    from datasets.fingerprint import Hasher

    from alignment.data.reading.arrow_cache import code_digest

    columns = {}
    for name in names:
        root, path = _root_and_path(dataset.column_names, name) or (name, [])
        rows = dataset.select_columns([root]).with_format(None)
        columns[name] = _column([value_at(value, path) for batch in rows.iter(1000) for value in batch[root]])
    fingerprint = Hasher.hash([dataset._fingerprint, list(names), code_digest(__file__)])
    nested = Dataset(pyarrow.table(columns), fingerprint=fingerprint)
    return concatenate_datasets([dataset, nested], axis=1)


def _column(values: list[Any]) -> pyarrow.Array:
    """Return values as an Arrow column: of one type, or as JSON.

    Not by `map` with the feature Json, which takes a text such as "0" for JSON, and would make a number of it.
    """
    import pyarrow

    from alignment.data.reading.json_files import column_type

    kind = column_type(values)
    if kind != pyarrow.json_():
        return pyarrow.array(values, kind)
    texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return pyarrow.ExtensionArray.from_storage(kind, pyarrow.array(texts, pyarrow.string()))


def _missing(names: Sequence[str], dataset: Dataset) -> UserError:
    """Return the error for names on the left of `columns` that lead nowhere."""
    first = dataset[0] if len(dataset) else {}
    known = [*dataset.column_names, *nested_names(first)]
    near: list[str] = []
    for name in names:  # each a column of its own
        near += nearest(name, [one for one in known if one not in near], cutoff=ALIKE)
    return UserError(
        f"`columns` names columns that the data set does not have: {', '.join(names)}.",
        got=f"columns {', '.join(known)}",
        expected="a mapping {column of the data set: recognised column}",
        fix=f"did you mean {' and '.join(near)}?" if near else "use one of the data set's columns on the left",
    )
