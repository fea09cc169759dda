"""Where rows come from: local files, tinyworld, or the hub."""

from __future__ import annotations

import difflib
import glob
import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from alignment.data.tinyworld import WorldConfig

TINYWORLD = "tinyworld"
TINYWORLD_NAMES = ("pretrain", "sft", "preference", "prompts", "eval", "fewshot")
TINYWORLD_OF_KIND = {"text": "pretrain", "sft": "sft", "preference": "preference", "prompts": "prompts"}
# A text file is cut into documents of about this many characters, at blank lines.
DOCUMENT_CHARACTERS = 4000


def load_source(name: str, *, config: str | None = None, split: str | None = None, kind: str) -> Dataset:
    """The rows of a source as they are; `formats.convert` makes them canonical.

    `name` is one of
    - a local file, folder or glob: JSON lines, JSON, CSV, TSV, Parquet or plain text, also with `.gz`. In a folder,
      files named after a split (`train.jsonl`, `test-00001.parquet`) are that split; if none is, all are `train`;
    - `tinyworld:NAME?option=value&...`, where `tinyworld` alone stands for the NAME that gives `kind`;
    - the id of a data set on the hub, with its `config` and `split`.
    """
    if is_tinyworld(name):
        dataset = _load_tinyworld(name, split or "train", kind)
    elif is_local(name):
        dataset = read_files(split_files(name, split or "train"))
    else:
        dataset = _load_hub(name, config, split or "train")
    if not len(dataset):
        raise UserError(f"The data set {name} is empty.", got="0 rows", needed="at least one row")
    return dataset


def own_test_split(name: str) -> str | None:
    """The split that a source itself keeps for validation, if it is known without a look at the hub."""
    if is_tinyworld(name):
        return "validation"
    if is_local(name) and Path(name).expanduser().is_dir():
        found = {_split_of(file) for file in local_files(name)}
        return next((split for split in ("validation", "valid", "dev", "test") if split in found), None)
    return None


# Local files --------------------------------------------------------------------------------------------------------


def is_local(name: str) -> bool:
    """Whether a name is a path: it exists, looks like a path, or ends like a file that we read."""
    if is_tinyworld(name):
        return False
    looks_local = name.startswith((".", "/", "~")) or any(sign in name for sign in "*?[\\")
    return looks_local or Path(name).exists() or _extension(Path(name)) in READERS


def local_files(name: str) -> list[Path]:
    """The files that a path, folder or glob stands for, sorted."""
    path = Path(name).expanduser()
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and _extension(file) in READERS]
        if not found:
            raise UserError(f"The folder {name} holds no data.", needed=f"files ending in {', '.join(READERS)}")
        return found
    if path.is_file():
        return [path]
    found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
    if not found:
        raise _missing(path)
    return found


def split_files(name: str, split: str) -> list[Path]:
    """The files of one split."""
    files = local_files(name)
    splits = {_split_of(file) for file in files} - {None} if Path(name).expanduser().is_dir() else set()
    if splits:
        files = [file for file in files if _split_of(file) == split]
    if not files or (not splits and split != "train"):
        raise UserError(
            f"{name} has no split {split}.",
            got=f"the split(s) {', '.join(sorted(splits)) or 'train'}",
            needed=f"a folder with files named {split}.EXTENSION",
            mend="leave dataset_test_split unset to have a share of the rows split off (eval_share)",
        )
    return files


def read_files(files: list[Path]) -> Dataset:
    """All rows of files of one kind."""
    extensions = sorted({_extension(file) for file in files})
    if len(extensions) > 1 or extensions[0] not in READERS:
        raise UserError(
            "The files are of several kinds." if len(extensions) > 1 else f"Cannot read {files[0]}.",
            got=", ".join(extension or "no extension" for extension in extensions),
            needed=f"one of {', '.join(READERS)} (each also with .gz)",
            mend="name the files by a glob, such as FOLDER/*.jsonl" if len(extensions) > 1 else "convert or rename it",
        )
    return READERS[extensions[0]](files)


def _split_of(file: Path) -> str | None:
    match = re.match(r"(train|validation|valid|dev|test)(?![a-z])", file.name)
    return match[1] if match else None


def _extension(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _missing(path: Path) -> UserError:
    """The error for a path that does not exist; it names the file that may have been meant."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    wanted = path.relative_to(folder).parts[0]
    names = sorted(file.name for file in folder.iterdir())
    close = difflib.get_close_matches(wanted, names, n=3) or names[:3]
    return UserError(
        f"There is no file {path}.",
        got=f"{folder}/ has no {wanted}",
        needed="a file, a folder or a glob that matches files",
        mend=f"did you mean {' or '.join(str(folder / name) for name in close)}?" if close else "check the path",
    )


def _read(file: Path) -> str:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8-sig") as stream:
            return stream.read()
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        needed = "text in UTF-8" + (", compressed by gzip" if file.suffix == ".gz" else "")
        raise UserError(f"Cannot read {file}.", got=str(error), needed=needed, mend="convert the file") from None


# Readers: files -> rows ---------------------------------------------------------------------------------------------


def read_json(files: list[Path]) -> Dataset:
    """Files that hold one object a line, or one list of objects."""
    from datasets import Dataset

    rows = [row for file in files for row in _json_rows(file)]
    # The union of the keys: from_list would take the first row's and lose the others.
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names}, on_mixed_types="use_json")


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    text = _read(file)
    if text.lstrip().startswith("["):
        for number, value in enumerate(_parse_json(file, text, 1), start=1):
            yield _check_object(file, value, f"item {number}")
        return
    # Not splitlines(): strings may hold separators such as U+2028 as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _check_object(file, _parse_json(file, line, number), f"line {number}")


def _parse_json(file: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file} is not valid JSON at line {line + error.lineno - 1}, column {error.colno}: {error.msg}.",
            got=repr(text[max(0, error.pos - 30) : error.pos + 30]),
            needed="one JSON object a line, or one list of objects",
            mend="correct that line",
        ) from None


def _check_object(file: Path, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f"{file} holds something other than objects at {where}.",
            got=f"{type(value).__name__}: {str(value)[:60]}",
            needed='objects with named columns, such as {"text": "..."}',
        )
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{file} holds half a character at {where}.",
            got=f"the escape \\u{ord(error.object[error.start]):04x} (a surrogate without its other half)",
            needed="text that can be written as UTF-8",
            mend="correct or delete it",
        ) from None
    return value


def read_text(files: list[Path]) -> Dataset:
    """Each file as one or more documents in a column `text`."""
    from datasets import Dataset

    documents = []
    for file in files:
        documents += split_documents(_read(file))
    return Dataset.from_dict({"text": documents})


def split_documents(text: str, characters: int = DOCUMENT_CHARACTERS) -> list[str]:
    """Cut a text into documents of at most about `characters`, with nothing lost but the blank lines at the cuts.

    A text that is short enough is one document. Cuts are at blank lines; a paragraph too long to be a document is cut
    at line ends, and a line that is too long stays whole.
    """
    paragraphs = [paragraph for paragraph in re.split(r"(?<=\n\n)(?=[^\n])", text) if paragraph.strip()]
    units = []
    for paragraph in paragraphs:
        units += [paragraph] if len(paragraph) <= characters else paragraph.splitlines(keepends=True)
    documents: list[str] = []
    size = characters
    for unit in units:
        if size + len(unit) > characters:
            documents.append("")
            size = 0
        documents[-1] += unit
        size += len(unit)
    return [document.strip("\n") for document in documents if document.strip()]


def read_csv(files: list[Path]) -> Dataset:
    """Comma- or tab-separated files with a header line; every value is text, the empty ones too."""
    import pandas
    from datasets import Dataset

    frames = []
    for file in files:
        separator = "\t" if _extension(file) == ".tsv" else ","
        try:
            frames.append(pandas.read_csv(StringIO(_read(file)), sep=separator, dtype=str, keep_default_na=False))
        except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
            raise UserError(f"Cannot read {file}.", got=str(error).strip(), needed="a header line and rows") from None
    table = pandas.concat(frames, ignore_index=True)
    return Dataset.from_dict({name: table[name].tolist() for name in table.columns})


def read_parquet(files: list[Path]) -> Dataset:
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    try:
        tables = [pyarrow.parquet.read_table(file) for file in files]
        return Dataset(pyarrow.concat_tables(tables, promote_options="permissive"))
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"Cannot read {', '.join(map(str, files))}.", got=str(error), needed="Parquet files") from None


READERS: dict[str, Callable[[list[Path]], Dataset]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".txt": read_text,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}


# tinyworld ----------------------------------------------------------------------------------------------------------


def is_tinyworld(name: str) -> bool:
    return name.partition("?")[0].partition(":")[0] == TINYWORLD


def parse_tinyworld(name: str, kind: str) -> tuple[str, WorldConfig]:
    """The data set and the world that a `tinyworld:NAME?options` stands for."""
    address, _, query = name.partition("?")
    rows = address.partition(":")[2] or TINYWORLD_OF_KIND[kind]
    if rows not in TINYWORLD_NAMES:
        raise _unknown("tinyworld data set", rows, TINYWORLD_NAMES)
    return rows, world_config(query)


def _load_tinyworld(name: str, split: str, kind: str) -> Dataset:
    from alignment.data import tinyworld

    rows, config = parse_tinyworld(name, kind)
    try:
        return tinyworld.load(rows, split, config)
    except ValueError as error:  # no such split, or an option out of range
        raise UserError(f"Cannot generate {name}, split {split}.", got=str(error), mend="change the option") from None


def world_config(query: str) -> WorldConfig:
    """`key=value&key=value` as a WorldConfig."""
    from alignment.data.tinyworld import WorldConfig

    types = {field.name: type(getattr(WorldConfig(), field.name)) for field in fields(WorldConfig)}
    options = {}
    for option in filter(None, query.split("&")):
        key, _, value = option.partition("=")
        if key not in types:
            raise _unknown("tinyworld option", key, tuple(types))
        try:
            options[key] = value == "true" if types[key] is bool else types[key](value)
        except ValueError:
            raise UserError(
                f"tinyworld option {key} has no such value.", got=value, needed=types[key].__name__
            ) from None
    return WorldConfig(**options)


def _unknown(what: str, got: str, known: tuple[str, ...]) -> UserError:
    close = difflib.get_close_matches(got, known, n=1)
    mend = f"did you mean {close[0]}?" if close else "take one of those"
    return UserError(f"Unknown {what}: {got}.", got=got, needed=f"one of {', '.join(known)}", mend=mend)


# The hub ------------------------------------------------------------------------------------------------------------


def _load_hub(name: str, config: str | None, split: str) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(name, config, split=split)
    # ConnectionError: offline and not in the cache. ValueError: an unknown config or split, whose text lists the known.
    except (DatasetNotFoundError, ConnectionError, ValueError) as error:
        raise UserError(
            f"Cannot load the data set {name} from the hub.",
            got=str(error),
            needed="a local file or folder, tinyworld:NAME, or a data set on the hub that can be reached",
            mend="check the spelling (a local path that does not exist is taken for a hub id), config and split",
        ) from None
