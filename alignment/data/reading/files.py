"""Local files: the files of a name and a split, and their rows in memory-mapped Arrow.

No reader holds a corpus in memory, with one exception: a `.json` file with one list is parsed as a whole.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.data.reading import columnar_files, csv_files, json_files, opening, text_files
from alignment.data.reading.columnar_files import read_arrow, read_parquet
from alignment.data.reading.csv_files import read_csv
from alignment.data.reading.json_files import read_json
from alignment.data.reading.opening import extension_of
from alignment.data.reading.text_files import read_text
from alignment.errors import UserError, nearest

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

    Tables = Iterator[pyarrow.Table]

POINTER = b"version https://git-lfs"
# Files without rows in a data set's folder: its card, and metadata of datasets' save_to_disk.
NOT_ROWS = ("readme.md", "state.json", "dataset_info.json", "dataset_dict.json")
# The code of the readers, part of the cache key: rows read by other code are not reused.
READING = (opening, json_files, text_files, csv_files, columnar_files)


def local_files(name: str) -> list[Path]:
    """Return the files of a path, folder or glob, sorted."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and extension_of(file) in READERS]
        found = [file for file in files if file.name.lower() not in NOT_ROWS]
        if not found:
            raise UserError(f"The folder {name} contains no data.", expected=f"files ending in {', '.join(READERS)}")
        return found
    if path.is_file():
        return [path]
    found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
    if not found:
        raise _missing(path)
    return found


def split_files(name: str, split: str) -> list[Path]:
    """Return the files of a split."""
    files, splits = local_files(name), local_splits(name)
    if splits:
        files = [file for file in files if _split_of(file, name) == split]
    if not files or (not splits and split != "train"):
        raise UserError(
            f"{name} has no split {split}.",
            got=f"the split(s) {', '.join(sorted(splits)) or 'train'}",
            expected=f"a folder with files named {split}.EXTENSION",
            fix="omit dataset_test_split to split off a share of the rows (eval_share)",
        )
    return files


def read_files(files: list[Path]) -> Dataset:
    """Return all rows of files of one kind, memory-mapped from datasets' cache; changed files are read again.

    Raises:
        NoRowsError: there are no rows.
    """
    from alignment.data.reading.arrow_cache import cached_tables, code_digest, file_states

    reader = _reader(files)
    _refuse_pointers(files)
    key = ("files", code_digest(__file__, *(str(module.__file__) for module in READING)), file_states(files))
    return cached_tables(key, lambda notes: reader(files))[0]


def local_splits(name: str) -> set[str]:
    """Return the splits that files or subfolders of a folder are named after; none for a file or a glob."""
    if not Path(name).expanduser().is_dir():
        return set()
    return {split for file in local_files(name) if (split := _split_of(file, name))}


def _split_of(file: Path, folder: str) -> str | None:
    parts = file.relative_to(Path(folder).expanduser()).parts
    matches = (re.match(r"(train|validation|valid|dev|test)(?![a-z])", part) for part in reversed(parts))
    return next((match[1] for match in matches if match), None)


def _reader(files: list[Path]) -> Callable[[list[Path]], Tables]:
    extensions = sorted({extension_of(file) for file in files})
    readers = {READERS[extension] for extension in extensions if extension in READERS}
    if len(readers) != 1 or not READERS.keys() >= set(extensions):
        raise UserError(
            "The files are of several kinds." if len(extensions) > 1 else f"Cannot read {files[0]}.",
            got=", ".join(extension or "no extension" for extension in extensions),
            expected=f"one of {', '.join(READERS)} (text, JSON and CSV also with .gz)",
            fix="name the files by a glob, such as FOLDER/*.jsonl" if len(extensions) > 1 else "convert or rename it",
        )
    zipped = [file for file in files if file.suffix == ".gz" and extensions[0] in BINARY]
    if zipped:
        raise UserError(
            f"Cannot read {zipped[0]}.",
            got=f"{extensions[0]} inside gzip",
            expected=f"{extensions[0]} without gzip: the format has its own compression",
            fix=f"gunzip {zipped[0]}",
        )
    return readers.pop()


def _refuse_pointers(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(POINTER)) == POINTER:
                raise UserError(
                    f"{file} is a pointer to the data, not the data.",
                    got="a git-LFS pointer, which a clone has if large files were not fetched",
                    expected="the file itself",
                    fix="run `git lfs pull` in that repository, or download the file from its page",
                )


def _missing(path: Path) -> UserError:
    """Return the error for a path that does not exist, with suggestions of similar names."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    wanted = path.relative_to(folder).parts[0]
    names = sorted(file.name for file in folder.iterdir())
    close = nearest(wanted, names, count=3) or names[:3]
    return UserError(
        f"There is no file {path}.",
        got=f"{folder}/ has no {wanted}",
        expected="a file, a folder or a glob that matches files",
        fix=f"did you mean {' or '.join(str(folder / name) for name in close)}?" if close else "check the path",
    )


READERS: dict[str, Callable[[list[Path]], Tables]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".txt": read_text,
    ".md": read_text,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
BINARY = (".parquet", ".arrow")
