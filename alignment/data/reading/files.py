"""Local files: the files of a name and a split, and their rows in memory-mapped Arrow.

No reader holds a corpus in memory, with one exception: a file with one JSON list or object is parsed as a whole.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.data.reading import columnar_files, csv_files, json_files, json_values, opening, row_formats, text_files
from alignment.data.reading.columnar_files import read_arrow, read_parquet
from alignment.data.reading.csv_files import read_csv
from alignment.data.reading.json_files import read_json
from alignment.data.reading.opening import (
    cannot_read,
    columnar_extension,
    extension_of,
    head_of,
    is_text,
    refuse_other_formats,
)
from alignment.data.reading.text_files import read_text
from alignment.durable.manifest import LINEAGE, MANIFEST
from alignment.durable.read import is_pointer
from alignment.errors import UserError, nearest

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

    Tables = Iterator[pyarrow.Table]

# Files without rows in a data set's folder: its card, and metadata of datasets' save_to_disk.
NOT_ROWS = ("readme.md", "state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
OF_DATA_STAGE = (
    MANIFEST,
    LINEAGE,
    "account.json",
    "left_out.jsonl",
)  # files without rows in the folder that a data stage wrote
# Files and folders of systems, editors and notebooks; datasets leaves out those that begin with a dot, too.
HIDDEN = re.compile(r"\..*|.*~|#.*#|~\$.*|__MACOSX|__pycache__")
SPLIT_WORDS = ("train", "training", "validation", "valid", "val", "dev", "eval", "evaluation", "test", "testing")
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_WORDS)})(?![a-z])")
SAME_SPLIT = {"training": "train", "evaluation": "eval", "testing": "test"}
SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")  # as the hub names the files of a split
# The code of the readers, part of the cache key: rows read by other code are not reused.
READING = (opening, json_files, json_values, row_formats, text_files, csv_files, columnar_files)


# The files of a name ------------------------------------------------------------------------------------------------


@dataclass
class Folder:
    """The files with rows in a folder, sorted, and the files that were left out, each with the reason."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)


def local_files(name: str) -> list[Path]:
    """Return the files of a path, folder or glob, sorted."""
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        folder = read_folder(path)
        if not folder.files:
            raise UserError(
                f"The folder {name} contains no data.",
                got=_list_left_out(folder.left_out, path) or "no files",
                expected=f"files ending in {', '.join(READERS)}",
                fix="rename or unpack the files, or name one of them",
            )
        return folder.files
    if os.path.isfile(path):
        return [path]
    if os.path.lexists(path):
        raise _not_a_file(path)
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    found = [match for match in matches if os.path.isfile(match)]
    if matches and not found:
        raise UserError(
            f"{name} matches only folders.",
            got=", ".join(map(str, matches[:3])),
            expected="files",
            fix=f"to read the files below them: {path}/**/*.jsonl, with their extension",
        )
    if not found:
        raise _missing(path)
    return found


def read_folder(path: Path) -> Folder:
    """Find the files below a folder, also behind links, each once.

    Raises:
        UserError: a folder cannot be read, or a link leads nowhere.
    """

    def refuse(error: OSError) -> None:
        raise cannot_read(Path(error.filename), error)

    folder, seen = Folder(), set()
    found: list[tuple[Path, bool]] = []
    for place, folders, names in os.walk(path, followlinks=True, onerror=refuse):
        hidden = any(HIDDEN.fullmatch(part) for part in Path(place).relative_to(path).parts)
        folders[:] = [name for name in folders if name != ".git"]
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder that was read
            folders.clear()
            continue
        seen.add(real)
        found += [(Path(place, name), hidden or bool(HIDDEN.fullmatch(name))) for name in names]
    for file, hidden in sorted(found):
        reason = _reason_to_leave_out(file, hidden)
        if reason:
            folder.left_out[file] = reason
        elif reason is None:
            folder.files.append(file)
    written = [file.parent for file in folder.files if file.name == LINEAGE and file.with_name(MANIFEST).is_file()]
    folder.files = [file for file in folder.files if not (file.parent in written and file.name in OF_DATA_STAGE)]
    originals = {os.path.realpath(file) for file in folder.files if not file.is_symlink()}
    for file in [file for file in folder.files if file.is_symlink() and os.path.realpath(file) in originals]:
        folder.files.remove(file)
        folder.left_out[file] = "a link to another of the files"
    return folder


def _reason_to_leave_out(file: Path, hidden: bool) -> str | None:
    """Return why a file in a folder is not read; None if it is, and an empty text if it is no data."""
    known = extension_of(file) in READERS
    if file.name.lower() in NOT_ROWS:
        return ""
    if hidden:
        return "hidden, or a copy that an editor or system left" if known else ""
    if not known:
        return f"the extension {file.suffix} is not read" if file.suffix else ""
    if not os.path.isfile(file):
        raise _not_a_file(file)
    return None


def _list_left_out(left_out: dict[Path, str], folder: Path) -> str:
    """Return a text that names files with their reasons, at most three for each."""
    reasons: dict[str, list[str]] = {}
    for file, reason in left_out.items():
        reasons.setdefault(reason, []).append(str(file.relative_to(folder)))
    more = {reason: f" and {len(names) - 3} more" if len(names) > 3 else "" for reason, names in reasons.items()}
    return "; ".join(f"{', '.join(names[:3])}{more[reason]} ({reason})" for reason, names in reasons.items())


def _not_a_file(path: Path) -> UserError:
    if not os.path.exists(path):
        return UserError(
            f"{path} is a link to a file that does not exist.",
            got=f"a link to {os.readlink(path)}",
            expected="a link to a file",
            fix="write or download the file, or delete the link",
        )
    mode = path.stat().st_mode
    kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return UserError(
        f"{path} is not a file.",
        got=kind,
        expected="a file, which is read several times",
        fix="write the rows to a file first",
    )


def _missing(path: Path) -> UserError:
    """Return the error for a path that does not exist, with suggestions of similar names."""
    folder = path.parent
    while not os.path.isdir(folder):
        folder = folder.parent
    wanted = path.relative_to(folder).parts[0]
    try:
        listed = sorted(os.listdir(folder))
    except OSError as error:
        return cannot_read(folder, error)
    names = [name for name in listed if not name.startswith(".") or wanted.startswith(".")]
    close = nearest(Path(wanted).stem, [Path(name).stem for name in names], count=3)
    close = [name for name in names if Path(name).stem in close][:3]  # the same ending makes no names similar
    readable = [name for name in names if extension_of(Path(name)) in READERS][:3]
    fix = f"check the path; {folder} has {', '.join(readable)}" if readable else "check the path"
    fix = f"did you mean {' or '.join(str(folder / name) for name in close)}?" if close else fix
    if "," in wanted:
        fix = "for several files, a glob or a list: `datasets: [{name: FILE}, {name: FILE}]`"
    return UserError(
        f"There is no file {path}.",
        got=f"the folder {folder} has no {wanted}",
        expected="a file, a folder or a glob that matches files",
        fix=fix,
    )


# Splits -------------------------------------------------------------------------------------------------------------


def split_files(name: str, split: str) -> list[Path]:
    """Return the files of a split.

    Raises:
        UserError: there are no such files, or they belong to several splits with similar names.
    """
    files, splits = local_files(name), _splits(name)
    named = {split for split in splits.values() if split}
    if not named and split == "train":
        return files
    of_word = [file for file in files if splits[file] == split or _word(splits[file]) == split]
    exact = [file for file in of_word if splits[file] == split] or _files_called(files, name, split)
    variants = {str(splits[file]) for file in exact or of_word}
    if len(variants) > 1:
        raise UserError(
            f"{name} has several splits that are called {split}.",
            got=f"the splits {', '.join(sorted(variants))}",
            expected="the name of one split",
            fix=f"dataset_train_split: {min(variants)}, or dataset_test_split, to validate on it",
        )
    if not exact and not of_word:
        raise _no_split(name, split, named, [file for file in files if not splits[file]])
    return exact or of_word


def _files_called(files: list[Path], name: str, split: str) -> list[Path]:
    """Return the files of a folder with the name of a split that no rule knows, or in a subfolder with that name."""
    folder = Path(os.path.expanduser(name))
    if not os.path.isdir(folder):
        return []
    stems = {file: file.name.removesuffix(".gz").rpartition(".")[0] for file in files}
    return [file for file in files if split in (stems[file], *file.relative_to(folder).parts[:-1])]


def local_splits(name: str) -> set[str]:
    """Return the splits that files or subfolders of a folder are named after; none for a file or a glob."""
    return {split for split in _splits(name).values() if split}


def left_out(name: str) -> str:
    """Return a text that names the files of a folder that no split reads, with reasons; empty if there are none."""
    folder = Path(os.path.expanduser(name))
    if not os.path.isdir(folder):
        return ""
    splits = _splits(name)
    unnamed = {file: "not named after a split, as others are" for file, split in splits.items() if not split}
    return _list_left_out((unnamed if any(splits.values()) else {}) | read_folder(folder).left_out, folder)


def _splits(name: str) -> dict[Path, str | None]:
    """Return file -> split for the files of a folder.

    A split's word begins the name of a file or folder (`test-1.jsonl`); it may also be inside (`gsm8k_test.jsonl`) if
    a training split is there as well. Files in shards, as the hub names them, and folders of datasets' save_to_disk
    have splits of any name that begins with such a word (`train_sft`).
    """
    folder = Path(os.path.expanduser(name))
    files = local_files(name)
    if not os.path.isdir(folder):
        return dict.fromkeys(files)
    saved = _saved_splits(folder)
    inside = {file: _split_of(file.relative_to(folder), saved, SPLIT_WORD.search) for file in files}
    leading = {file: _split_of(file.relative_to(folder), saved, SPLIT_WORD.match) for file in files}
    return inside if "train" in map(_word, inside.values()) else leading


def _saved_splits(folder: Path) -> list[str]:
    index = folder / "dataset_dict.json"
    try:
        return list(map(str, json.loads(index.read_bytes())["splits"])) if index.is_file() else []
    except (ValueError, KeyError, TypeError):
        return []


def _split_of(path: Path, saved: list[str], find: Callable[[str], re.Match[str] | None]) -> str | None:
    if path.parts[0] in saved:
        return path.parts[0]
    for part in reversed(path.parts):
        word = find(part.lower())
        if word:
            shard = SHARD.match(part.lower()) if SPLIT_WORD.match(part.lower()) else None
            split = (shard or word)[1]
            return SAME_SPLIT.get(split, split)
    return None


def _word(split: str | None) -> str | None:
    """Return the word that a split's name begins with or has inside: `train` for `train_sft`."""
    match = SPLIT_WORD.search(split or "")
    return SAME_SPLIT.get(match[1], match[1]) if match else split


def _no_split(name: str, split: str, named: set[str], others: list[Path]) -> UserError:
    unnamed = f"; of no split: {', '.join(file.name for file in others[:3])}" if others and named else ""
    return UserError(
        f"{name} has no split {split}.",
        got=f"the split(s) {', '.join(sorted(named)) or 'train'}{unnamed}",
        expected=f"a folder with files named {split}.EXTENSION",
        fix=f"name the file with the training rows, such as {others[0]}, or set dataset_train_split"
        if split == "train" and others
        else "omit dataset_test_split to split off a share of the rows (eval_share)",
    )


# Their rows ---------------------------------------------------------------------------------------------------------


def read_files(files: list[Path]) -> Dataset:
    """Return all rows of files of one kind, memory-mapped from datasets' cache; changed files are read again.

    Raises:
        NoRowsError: there are no rows.
    """
    from alignment.data.reading.arrow_cache import cached_tables, code_digest

    reader = _reader(files)
    states = _states(files)
    key = ("files", code_digest(__file__, *(str(module.__file__) for module in READING)), states)

    def tables(_notes: dict[str, object]) -> Tables:
        with _unchanged(files, states):
            yield from reader(files)

    return cached_tables(key, tables)[0]


def _reader(files: list[Path]) -> Callable[[list[Path]], Tables]:
    for file in files:
        _refuse_pointer(file)
    extensions = {file: columnar_extension(file) or extension_of(file) for file in files}
    names = sorted(set(extensions.values()))
    readers = {READERS[extension] for extension in names if extension in READERS}
    if len(readers) != 1 or not READERS.keys() >= set(names):
        if len(names) == 1:
            refuse_other_formats(files[0], head_of(files[0]))
        folder = glob.escape(os.path.commonpath([file.parent for file in files]))
        usual = Counter(extension for extension in extensions.values() if extension in READERS).most_common(1)
        pattern = os.path.join(folder, "**", f"*{usual[0][0] if usual else '.jsonl'}")
        raise UserError(
            "The files are of several kinds." if len(names) > 1 else f"Cannot read {files[0]}.",
            got=", ".join(extension or "no extension" for extension in names),
            expected=f"one of {', '.join(READERS)} (text, JSON and CSV also with .gz)",
            fix=f"name the files by a glob, such as {pattern!r}" if len(names) > 1 else "convert or rename it",
        )
    for file, extension in extensions.items():
        if extension in COLUMNAR and not columnar_extension(file):
            _refuse_not_columnar(file, "Parquet" if extension == ".parquet" else "Arrow")
    return readers.pop()


def _refuse_not_columnar(file: Path, expected: str) -> None:
    head, name = head_of(file), shlex.quote(str(file))
    if head.startswith(b"\x1f\x8b") or file.suffix.lower() == ".gz":
        raise UserError(
            f"Cannot read {file}.",
            got=f"{expected} inside gzip",
            expected=f"{expected} without gzip: the format has its own compression",
            fix=f"gunzip {name}" if file.suffix.lower() == ".gz" else f"mv {name} {name}.gz; gunzip {name}.gz",
        )
    if head and is_text(head):
        raise UserError(
            f"Cannot read {file}: it is not {expected}, but text.",
            got=repr(head[:40].decode(errors="ignore")),
            expected=f"{expected} files",
            fix="rename the file by its format, such as .jsonl or .csv",
        )


def _refuse_pointer(file: Path) -> None:
    if is_pointer(head_of(file)):
        raise UserError(
            f"{file} is a pointer to the data, not the data.",
            got="a git-LFS pointer, which a clone has if large files were not fetched",
            expected="the file itself",
            fix="run `git lfs pull` in that repository, or download the file from its page",
        )


def _states(files: list[Path]) -> list[tuple[str, int, int, int]]:
    from alignment.data.reading.arrow_cache import file_states

    try:
        return file_states(files)
    except OSError as error:
        raise cannot_read(Path(error.filename), error) from None


@contextmanager
def _unchanged(files: list[Path], states: list[tuple[str, int, int, int]]) -> Iterator[None]:
    """Refuse files that change within the context: their first and their last rows would not fit together."""
    import pyarrow

    fault: Exception | None = None
    try:
        yield
    except (UserError, pyarrow.ArrowException) as error:
        fault = error
    changed = [new[0] for old, new in zip(states, _states(files), strict=True) if old != new]
    if changed:
        raise UserError(
            f"{changed[0]} changed while it was read.",
            got="another size or time at the end than at the beginning",
            expected="a file that is complete",
            fix="wait for the program that writes the file, or read a copy",
        )
    if fault:
        raise fault


READERS: dict[str, Callable[[list[Path]], Tables]] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".txt": read_text,
    ".md": read_text,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
COLUMNAR = (".parquet", ".arrow")
