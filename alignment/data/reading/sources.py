"""Where rows come from: local files, tinyworld, the installed Python packages, or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from alignment.data.reading.files import READERS, extension_of, local_splits, read_files, split_files
from alignment.data.reading.python_sources import is_python_sources, parse_python_sources, read_python_sources
from alignment.errors import UserError, unknown
from alignment.name_options import read_options, split_name

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, IterableDataset

    from alignment.data.tinyworld import WorldConfig

TINYWORLD = "tinyworld"
TINYWORLD_NAMES = ("pretrain", "sft", "preference", "prompts", "eval", "fewshot")
TINYWORLD_OF_KIND = {
    "text": "pretrain",
    "sft": "sft",
    "preference": "preference",
    "prompts": "prompts",
    "kto": "preference",
}


def load_source(
    name: str,
    *,
    config: str | None = None,
    split: str | None = None,
    kind: str,
    streaming: bool = False,
    max_rows: int | None = None,
) -> Dataset:
    """The rows of a source as they are; `formats.convert` makes them canonical.

    `name` is one of
    - a local file, folder or glob: JSON lines, JSON, CSV, TSV or plain text, each also with `.gz`, Parquet or Arrow. In
      a folder, files named after a split (`train.jsonl`, `test-00001.parquet`) are that split; if none is, all are
      `train`;
    - `tinyworld:NAME?option=value&...`, where `tinyworld` alone stands for the NAME that gives `kind`;
    - `python-sources:PACKAGE,...?docstrings=true`, where no package means all that are installed;
    - the id of a data set on the hub, with its `config` and `split`.

    `max_rows` takes the first so many rows. With `streaming` no more than those are downloaded from the hub; the other
    sources need no download. All but tinyworld are memory-mapped.
    """
    from alignment.data.reading.arrow_cache import NoRowsError

    split = split or "train"
    try:
        if is_tinyworld(name):
            rows = _load_tinyworld(name, split, kind)
        elif is_python_sources(name):
            rows = _load_python_sources(name, split, kind)
        elif is_local(name):
            rows = read_files(split_files(name, split))
        elif streaming:
            rows = _stream_hub(name, config, split, max_rows)
        else:
            rows = _load_hub(name, config, split)
    except NoRowsError:
        rows = ()
    if not len(rows):
        raise UserError(f"The data set {name} is empty.", got="0 rows", expected="at least one row")
    return rows if max_rows is None or max_rows >= len(rows) else rows.select(range(max_rows))


def own_test_split(name: str) -> str | None:
    """The split that a source itself keeps for validation, if it is known without a look at the hub."""
    if is_tinyworld(name):
        return "validation"
    if is_local(name):
        found = local_splits(name)
        return next((split for split in ("validation", "valid", "dev", "test") if split in found), None)
    return None


def is_local(name: str) -> bool:
    """Whether a name is a path: it exists, looks like a path, or ends like a file that we read."""
    if is_tinyworld(name) or is_python_sources(name):
        return False
    looks_local = name.startswith((".", "/", "~")) or any(sign in name for sign in "*?[\\")
    return looks_local or Path(name).exists() or extension_of(Path(name)) in READERS


def _load_python_sources(name: str, split: str, kind: str) -> Dataset:
    wanted = parse_python_sources(name, kind)
    if split != "train":
        raise UserError(
            f"{name} has no split {split}.",
            got="the split train",
            expected="train",
            fix="leave dataset_test_split unset to have a share of the rows split off (eval_share)",
        )
    return read_python_sources(wanted)


# tinyworld ----------------------------------------------------------------------------------------------------------


def is_tinyworld(name: str) -> bool:
    return split_name(name)[0].partition(":")[0] == TINYWORLD


def parse_tinyworld(name: str, kind: str) -> tuple[str, WorldConfig]:
    """The data set and the world that a `tinyworld:NAME?options` stands for."""
    address, query = split_name(name)
    rows = address.partition(":")[2] or TINYWORLD_OF_KIND[kind]
    if rows not in TINYWORLD_NAMES:
        raise unknown("tinyworld data set", rows, TINYWORLD_NAMES)
    return rows, world_config(query or "")


def _load_tinyworld(name: str, split: str, kind: str) -> Dataset:
    from alignment.data import tinyworld

    rows, config = parse_tinyworld(name, kind)
    try:
        return tinyworld.load(rows, split, config)
    except ValueError as error:  # no such split, or an option out of range
        raise UserError(f"Cannot generate {name}, split {split}.", got=str(error), fix="change the option") from None


def world_config(query: str) -> WorldConfig:
    """`key=value&key=value` as a WorldConfig."""
    from alignment.data.tinyworld import WorldConfig

    return WorldConfig(**read_options(query, TINYWORLD, get_type_hints(WorldConfig)))


# The hub ------------------------------------------------------------------------------------------------------------


def _load_hub(name: str, config: str | None, split: str) -> Dataset:
    from datasets import load_dataset

    with _hub_errors(name):
        return load_dataset(name, config, split=split)


def _stream_hub(name: str, config: str | None, split: str, max_rows: int | None) -> Dataset:
    """The first rows of a data set on the hub, downloaded as far as they reach, and kept under its commit."""
    from datasets import load_dataset
    from huggingface_hub import dataset_info

    from alignment.data.reading.arrow_cache import cached_tables, code_digest

    with _hub_errors(name):
        commit = dataset_info(name).sha
        key = ("hub", code_digest(__file__), name, commit, config, split, max_rows)

        def tables(notes: dict[str, Any]) -> Iterator[pyarrow.Table]:
            return streamed_tables(load_dataset(name, config, split=split, revision=commit, streaming=True), max_rows)

        return cached_tables(key, tables)[0]


def streamed_tables(rows: IterableDataset, max_rows: int | None) -> Iterator[pyarrow.Table]:
    """Tables of the first rows; no row after them is asked for."""
    from alignment.data.reading.arrow_cache import BATCH_ROWS

    first = rows if max_rows is None else rows.take(max_rows)
    return first.with_format("arrow").iter(batch_size=BATCH_ROWS)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    # ConnectionError: offline and not in the cache. ValueError: an unknown config or split, whose text lists the known.
    # DatasetGenerationError: one of the others on the way, or rows whose columns change from file to file.
    except (DatasetGenerationError, DatasetNotFoundError, HfHubHTTPError, ConnectionError, ValueError) as error:
        raise UserError(
            f"Cannot load the data set {name} from the hub.",
            got=str(error.__cause__ or error),
            expected="a local file or folder, tinyworld:NAME, python-sources:, or a data set on the hub in reach",
            fix="check the spelling (a local path that does not exist is taken for a hub id), config and split",
        ) from None
