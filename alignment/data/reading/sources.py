"""Sources of rows: local files, tinyworld, installed Python packages, and the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from alignment.data.reading.files import READERS, left_out, local_splits, read_files, split_files
from alignment.data.reading.opening import extension_of
from alignment.data.reading.python_sources import (
    PYTHON_SOURCES,
    is_python_sources,
    parse_python_sources,
    read_python_sources,
)
from alignment.errors import UserError, did_you_mean, unknown
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
# Splits to validate on, the preferred first.
HELD_OUT = ("validation", "valid", "val", "dev", "eval", "test")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
ADDRESS = re.compile(r"[a-z0-9+]+://")
HUB_PAGE = re.compile(r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)datasets/([\w.-]+/[\w.-]+)")


def load_source(
    name: str,
    *,
    config: str | None = None,
    split: str | None = None,
    kind: str,
    streaming: bool = False,
    max_rows: int | None = None,
) -> Dataset:
    """Load the rows of a source without conversion; `formats.convert` makes them canonical.

    All rows are memory-mapped, except those of tinyworld.

    Args:
        name: one of
            - a local file, folder or glob: JSON lines, JSON, CSV, TSV or plain text, each also with `.gz`, Parquet or
              Arrow. In a folder, files named after a split (`train.jsonl`, `test-00001.parquet`) form that split; if
              there are none, all files form `train`. Hidden files and copies that editors leave are no rows;
            - `tinyworld:NAME?option=value&...`; `tinyworld` alone is the data set of `kind`;
            - `python-sources:PACKAGE,...?docstrings=true`; without packages, all installed ones;
            - the id of a data set on the hub.
        config, split: of the data set; split is `train` by default. The config of a local folder is a folder in it.
        kind: kind of data that the stage needs.
        streaming: download only max_rows rows from the hub.
        max_rows: number of rows to load, from the start.

    Raises:
        UserError: the source cannot be read or has no rows.
    """
    from alignment.data.reading.arrow_cache import NoRowsError

    split = split or "train"
    refuse_misspelt(name)
    try:
        if is_tinyworld(name):
            rows = _load_tinyworld(name, split, kind)
        elif is_python_sources(name):
            rows = _load_python_sources(name, split, kind)
        elif is_local(name):
            rows = read_files(source_files(name, config, split))
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
    """Return the split that a source provides for validation, if that is known without the hub."""
    if is_tinyworld(name):
        return "validation"
    if is_local(name):
        found = local_splits(name)
        named = next((word for word in HELD_OUT for split in found if split.partition("_")[0] == word), None)
        several = [split for split in found if named and split.startswith(named)]
        return several[0] if len(several) == 1 else named  # of several, reading names them all
    return None


def files_left_out(name: str) -> str:
    """Return a note on the files of a local folder that no split reads; empty if there are none."""
    text = left_out(name) if is_local(name) else ""
    return f"{name}: files that were left out: {text}" if text else ""


def is_local(name: str) -> bool:
    """Return whether a name is a path: it exists, has the extension of a supported file, or cannot be a hub id."""
    if is_tinyworld(name) or is_python_sources(name):
        return False
    try:
        exists = os.path.lexists(os.path.expanduser(name))
    except ValueError:  # a null byte
        exists = False
    if exists:
        return True
    if ADDRESS.match(name):
        return False
    looks_local = extension_of(Path(name)) in READERS or name.startswith((".", "~"))
    return looks_local or (not HUB_ID.fullmatch(name) and not _is_like_a_source(name))


def _is_like_a_source(name: str) -> bool:
    """Return whether a name has a colon, as those of sources have, and no sign of a path before it."""
    return re.match(r"[\w.-]+(/[\w.-]+)?:(?!\\)", name) is not None


def refuse_misspelt(name: str) -> None:
    """Raise for addresses, and for names that are like those of other sources but unknown; no source is read."""
    if is_tinyworld(name) or is_python_sources(name) or is_local(name):
        return
    if ADDRESS.match(name):
        page = HUB_PAGE.match(name)
        raise UserError(
            f"{name} is an address.",
            got=name,
            expected="a local file or folder, or the id of a data set on the hub, such as NAME/DATA",
            fix=f"dataset_name: {page[1]}" if page else "download the file, and name it by its path",
        )
    if _is_like_a_source(name):
        scheme, _, rest = name.partition(":")
        known = [f"{source}:{rest}" for source in (TINYWORLD, PYTHON_SOURCES)]
        near = did_you_mean(scheme.lower(), (TINYWORLD, PYTHON_SOURCES))
        fix = next((f"did you mean {full!r}?" for full in known if near and full.partition(":")[0] in near), None)
        raise UserError(
            f"No source is called {scheme}: {name}.",
            got=name,
            expected="a local file or folder, tinyworld:NAME, python-sources:, or the id of a data set on the hub",
            fix=fix or "check the spelling; the split of a data set has a key of its own: dataset_train_split",
        )


def source_files(name: str, config: str | None, split: str) -> list[Path]:
    """Return the local files of a split of a source, as `load_source` reads them."""
    return split_files(_config_folder(name, config), split)


def _config_folder(name: str, config: str | None) -> str:
    """Return the folder of a local data set's config, or the data set itself without a config."""
    if config is None:
        return name
    folder = os.path.join(name, config)
    if os.path.isdir(os.path.expanduser(folder)):
        return folder
    raise UserError(
        f"{name} has no config {config}.",
        got=f"local files without a folder {config}",
        expected="a config of a data set on the hub, or the name of a folder in the data set's",
        fix="leave the config out",
    )


def _load_python_sources(name: str, split: str, kind: str) -> Dataset:
    wanted = parse_python_sources(name, kind)
    if split != "train":
        raise UserError(
            f"{name} has no split {split}.",
            got="the split train",
            expected="train",
            fix="omit dataset_test_split to split off a share of the rows (eval_share)",
        )
    return read_python_sources(wanted)


# tinyworld ----------------------------------------------------------------------------------------------------------


def is_tinyworld(name: str) -> bool:
    """Return whether a name means tinyworld."""
    return split_name(name)[0].partition(":")[0] == TINYWORLD


def parse_tinyworld(name: str, kind: str) -> tuple[str, WorldConfig]:
    """Parse `tinyworld:NAME?options` into the data set's name and the world's config."""
    address, query = split_name(name)
    rows = address.partition(":")[2] or TINYWORLD_OF_KIND[kind]
    if rows not in TINYWORLD_NAMES:
        raise unknown("tinyworld data set", rows, TINYWORLD_NAMES)
    return rows, world_config(query or "")


def _load_tinyworld(name: str, split: str, kind: str) -> Dataset:
    """Generate the rows once, and read them from datasets' cache from then on."""
    from alignment.data import tinyworld
    from alignment.data.reading.arrow_cache import cached_tables, code_digest

    rows, config = parse_tinyworld(name, kind)
    key = ("tinyworld", code_digest(*tinyworld.FILES), rows, split, config)
    try:
        return cached_tables(key, lambda notes: [tinyworld.load(rows, split, config).data.table])[0]
    except ValueError as error:  # no such split, or an option out of range
        raise UserError(f"Cannot generate {name}, split {split}.", got=str(error), fix="change the option") from None


def world_config(query: str) -> WorldConfig:
    """Parse `key=value&key=value` as a WorldConfig."""
    from alignment.data.tinyworld import WorldConfig, families_of

    config = WorldConfig(**read_options(query, TINYWORLD, get_type_hints(WorldConfig)))
    families_of(config.families)
    return config


# The hub ------------------------------------------------------------------------------------------------------------


def _load_hub(name: str, config: str | None, split: str) -> Dataset:
    from datasets import load_dataset

    from alignment.data.reading.arrow_cache import cache_errors

    with cache_errors(), _hub_errors(name):
        return load_dataset(name, config, split=split)


def _stream_hub(name: str, config: str | None, split: str, max_rows: int | None) -> Dataset:
    """Download only the first rows of a data set on the hub, and cache them under its commit."""
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
    """Yield tables of the first rows, without requesting further rows."""
    from alignment.data.reading.arrow_cache import BATCH_ROWS

    first = rows if max_rows is None else rows.take(max_rows)
    return first.with_format("arrow").iter(batch_size=BATCH_ROWS)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError

    spelling = did_you_mean(name.lower(), (TINYWORLD, PYTHON_SOURCES))
    try:
        yield
    # ConnectionError: offline and not in the cache. ValueError: an unknown config or split; the text lists the known.
    # DatasetGenerationError: one of the others during reading, or rows whose columns differ between files.
    except (DatasetGenerationError, DatasetNotFoundError, HfHubHTTPError, ConnectionError, ValueError) as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:  # the cache
            raise
        raise UserError(
            f"Cannot load the data set {name} from the hub.",
            got=str(error.__cause__ or error),
            expected="a local file or folder, tinyworld:NAME, python-sources:, or a data set on the hub",
            fix=spelling
            or "check the spelling (a missing local path is read as a hub id), config, split and the connection",
        ) from None
