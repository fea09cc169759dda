"""Arrow shards: files of rows that are written once, atomically, and then memory-mapped."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)

SHARD_BYTES = 2**26  # also the memory for streaming rows, during which one shard is open
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Return the folder of cached rows: in `cache_dir`, by default in datasets' cache (HF_DATASETS_CACHE)."""
    import datasets

    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "alignment"


def cached_folder(folder: Path, make: Callable[[Path], object]) -> bool:
    """Make `folder` unless it exists; return whether it existed.

    `make` fills a temporary folder, which is renamed when it is complete. An incomplete folder of a killed process is
    thus never used, and if two processes make the same folder, both use that of the first to finish.
    """
    if folder.is_dir():
        return True
    partial = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    try:
        make(partial)
        _publish(partial, folder)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _cannot_write(folder, error) from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return False


def _publish(partial: Path, folder: Path) -> None:
    try:
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first
            raise


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"Cannot write {folder}.",
        got=str(error),
        expected="a folder on a disk with space for the token ids: 4 bytes per token, 8 if they are packed",
        fix="set the environment variable HF_DATASETS_CACHE to such a folder",
    )


def write_shards(batches: Iterable[pa.RecordBatch], folder: Path) -> None:
    """Write record batches of one schema to 00000.arrow, 00001.arrow, ... in `folder`."""
    import pyarrow as pa

    batches = iter(batches)
    for number, first in enumerate(batches):  # each iteration writes a shard
        size = first.nbytes
        with pa.ipc.new_stream(str(folder / f"{number:05}.arrow"), first.schema) as writer:
            writer.write_batch(first)
            while size < SHARD_BYTES and (batch := next(batches, None)) is not None:
                writer.write_batch(batch)
                size += batch.nbytes


def read_shards(folder: Path) -> Iterator[pa.RecordBatch]:
    """Yield the record batches in order, memory-mapped. A shard is unmapped once nothing refers to its batches."""
    import pyarrow as pa

    for shard in _shards(folder):
        with pa.memory_map(str(shard)) as source:
            yield from pa.ipc.open_stream(source)


def map_shards(folder: Path) -> Dataset:
    """Return all rows as one memory-mapped data set."""
    from datasets import Dataset, concatenate_datasets

    return concatenate_datasets([Dataset.from_file(str(shard)) for shard in _shards(folder)])


def lists_of(column: pa.ListArray) -> Iterator[np.ndarray]:
    """Return each row of a column of lists, as a view of the column's memory."""
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy().tolist()
    return (values[start:end] for start, end in pairwise(offsets))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))
