"""Tables written once into datasets' cache, and memory-mapped from there.

Imports datasets: import it where rows are read, not where the command line is built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets.builder import Key
from datasets.fingerprint import Hasher

from alignment.data.tokenizing.grouping import grouped
from alignment.errors import UserError

# What is held in memory while rows are written: so many rows, or fewer where they are long.
BATCH_ROWS = 1000
BATCH_BYTES = 8 << 20


class NoRowsError(Exception):
    """The tables that were to be written hold no rows. Its argument: the notes."""


@dataclass
class TableConfig(datasets.BuilderConfig):
    tables: Callable[[dict[str, Any]], Iterable[pyarrow.Table]] | None = None


class AlignmentTables(datasets.ArrowBasedBuilder):
    """A builder of the tables that a function makes; the function is called only where the cache has no such rows."""

    BUILDER_CONFIG_CLASS = TableConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN)]

    def _generate_tables(self) -> Iterator[tuple[Key, pyarrow.Table]]:
        notes: dict[str, Any] = {}
        rows = 0
        for number, table in enumerate(self.config.tables(notes)):
            rows += table.num_rows
            yield Key(0, number), table
            if table.num_rows == 1:
                # datasets holds tables of one row back, a thousand of them, until another table comes.
                yield Key(0, number), table.slice(0, 0)
        if not rows:
            raise NoRowsError(notes)
        # datasets keeps the description beside the rows.
        self.info.description = json.dumps(notes)


def cached_tables(
    key: Any, tables: Callable[[dict[str, Any]], Iterable[pyarrow.Table]]
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The rows of `tables(notes)`, which are all of one schema, memory-mapped; and the notes.

    `key` stands for all that the rows follow from: with an equal key they are taken from the cache. What `tables`
    writes into `notes` (as JSON can hold it) is kept with the rows. Raises NoRowsError, with the notes.
    """
    builder = AlignmentTables(tables=tables, dataset_name="alignment", config_id=f"rows-{Hasher.hash(key)}")
    try:
        builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, (UserError, NoRowsError)):
            raise error.__cause__ from None
        raise
    rows = builder.as_dataset(split=datasets.Split.TRAIN)
    return rows, json.loads(rows.info.description)


def tables_in_memory(
    tables: Callable[[dict[str, Any]], Iterable[pyarrow.Table]],
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """As `cached_tables`, with nothing written."""
    notes: dict[str, Any] = {}
    parts = list(tables(notes))
    if not any(table.num_rows for table in parts):
        raise NoRowsError(notes)
    return datasets.Dataset(pyarrow.concat_tables(parts)), notes


def code_digest(*files: str) -> str:
    """A digest of Python files: part of a key, so that no row that older code made comes back."""
    return Hasher.hash([Path(file).read_bytes() for file in (*files, __file__)])


def batches(sized_rows: Iterable[tuple[Any, int]]) -> Iterator[list[Any]]:
    """Lists of rows that fit in memory, from (row, its size in bytes or characters)."""
    for batch in grouped(sized_rows, itemgetter(1), BATCH_BYTES, BATCH_ROWS):
        yield [row for row, _ in batch]


def file_states(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """What changes when a file does: its path, size, and times in nanoseconds."""
    states = [(os.path.abspath(file), file.stat()) for file in files]
    return [(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for path, state in states]
