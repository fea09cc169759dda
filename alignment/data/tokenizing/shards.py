"""Arrow shards: files of rows that are written once, whole or not at all, and memory-mapped ever after."""

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

SHARD_BYTES = 2**26  # one shard is open while rows are streamed, so this much of them is in memory
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where made rows are kept: below `cache_dir`, else below the cache of datasets (set by HF_DATASETS_CACHE)."""
    import datasets

    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "alignment"


def cached_folder(folder: Path, make: Callable[[Path], object]) -> bool:
    """See to it that `folder` exists and is whole; whether it was there before.

    `make` fills a folder of another name, which is renamed when it is done. So what a killed process leaves behind is
    never taken for the whole, and of two processes that make the same, the first to end wins and both go on.
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
        if not folder.is_dir():  # else another process was first
            raise


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"Cannot write {folder}.",
        got=str(error),
        expected="a folder on a disk with room for the token ids: 4 bytes a token, twice where they are packed",
        fix="set the environment variable HF_DATASETS_CACHE to such a folder",
    )


def write_shards(batches: Iterable[pa.RecordBatch], folder: Path) -> None:
    """Write record batches of one schema to 00000.arrow, 00001.arrow, ... in `folder`."""
    import pyarrow as pa

    batches = iter(batches)
    for number, first in enumerate(batches):  # a turn of this loop is a shard
        size = first.nbytes
        with pa.ipc.new_stream(str(folder / f"{number:05}.arrow"), first.schema) as writer:
            writer.write_batch(first)
            while size < SHARD_BYTES and (batch := next(batches, None)) is not None:
                writer.write_batch(batch)
                size += batch.nbytes


def read_shards(folder: Path) -> Iterator[pa.RecordBatch]:
    """The record batches in order, memory-mapped. A shard is unmapped once nothing refers to its batches."""
    import pyarrow as pa

    for shard in _shards(folder):
        with pa.memory_map(str(shard)) as source:
            yield from pa.ipc.open_stream(source)


def map_shards(folder: Path) -> Dataset:
    """All rows as one memory-mapped data set."""
    from datasets import Dataset, concatenate_datasets

    return concatenate_datasets([Dataset.from_file(str(shard)) for shard in _shards(folder)])


def lists_of(column: pa.ListArray) -> Iterator[np.ndarray]:
    """Each row of a column of lists, as a view of the column's own memory."""
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy().tolist()
    return (values[start:end] for start, end in pairwise(offsets))


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))
