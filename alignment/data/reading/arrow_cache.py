"""Arrow tables that are written once into datasets' cache, and memory-mapped from there.

This module imports datasets, which takes seconds: import it inside functions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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

# Largest batch of rows in memory while rows are written.
BATCH_ROWS = 1000
BATCH_BYTES = 8 << 20


class NoRowsError(Exception):
    """Raised if the tables to write have no rows; its argument is the notes."""


@dataclass
class TableConfig(datasets.BuilderConfig):
    tables: Callable[[dict[str, Any]], Iterable[pyarrow.Table]] | None = None


class AlignmentTables(datasets.ArrowBasedBuilder):
    """A builder for the tables that a function yields; the function is called only if the cache lacks the rows."""

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
                # datasets holds up to a thousand tables of one row back until another table comes.
                yield Key(0, number), table.slice(0, 0)
        if not rows:
            raise NoRowsError(notes)
        # datasets stores the description with the rows.
        self.info.description = json.dumps(notes)


def cached_tables(
    key: Any, tables: Callable[[dict[str, Any]], Iterable[pyarrow.Table]]
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """Return the rows of `tables(notes)` memory-mapped from the cache, and the notes.

    Args:
        key: everything that determines the rows: with an equal key they are taken from the cache.
        tables: yields tables with one schema; may write JSON values into `notes`, which are cached with the rows.

    Raises:
        NoRowsError: there are no rows.
        UserError: the cache cannot be written.
    """
    with cache_errors():
        builder = AlignmentTables(tables=tables, dataset_name="alignment", config_id=f"rows-{Hasher.hash(key)}")
        builder.download_and_prepare()
        rows = builder.as_dataset(split=datasets.Split.TRAIN)
    return rows, json.loads(rows.info.description)


@contextmanager
def cache_errors() -> Iterator[None]:
    """Name the cache in errors of the system while rows are written to it; unwrap those of the tables themselves."""
    try:
        yield
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        if isinstance(cause, (UserError, NoRowsError)):
            raise cause from None
        # Errors of connections are the hub's, and have no number.
        if not isinstance(cause, OSError) or isinstance(cause, ConnectionError) or cause.errno is None:
            raise
        raise UserError(
            f"Cannot write the cache of data sets, {datasets.config.HF_DATASETS_CACHE}.",
            got=str(cause),
            expected="a folder that can be written, on a disk with space",
            fix="set the environment variable HF_DATASETS_CACHE (or HF_HOME) to such a folder",
        ) from None


def tables_in_memory(
    tables: Callable[[dict[str, Any]], Iterable[pyarrow.Table]],
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """Return the rows and notes of `tables(notes)` as `cached_tables` does, but in memory."""
    notes: dict[str, Any] = {}
    parts = list(tables(notes))
    if not any(table.num_rows for table in parts):
        raise NoRowsError(notes)
    return datasets.Dataset(pyarrow.concat_tables(parts)), notes


def code_digest(*files: str) -> str:
    """Return a digest of Python files, for cache keys: rows made by other code are not reused."""
    return Hasher.hash([Path(file).read_bytes() for file in (*files, __file__)])


def batches(sized_rows: Iterable[tuple[Any, int]]) -> Iterator[list[Any]]:
    """Group rows into lists that fit in memory, from pairs (row, size in bytes or characters)."""
    for batch in grouped(sized_rows, itemgetter(1), BATCH_BYTES, BATCH_ROWS):
        yield [row for row, _ in batch]


def file_states(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """Return path, size and times in nanoseconds of each file, which change when the file does."""
    states = [(os.path.abspath(file), file.stat()) for file in files]
    return [(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for path, state in states]
