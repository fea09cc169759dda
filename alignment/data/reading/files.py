"""Local files: which of them a name and a split stand for, and readers that bring their rows into memory-mapped Arrow.

No reader holds a corpus in memory, with one exception: a `.json` file that is one list is parsed as a whole.
"""

from __future__ import annotations

import csv
import glob
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from alignment.errors import UserError, nearest

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

    Tables = Iterator[pyarrow.Table]

# A text file is cut into documents of about this many characters, at blank lines.
DOCUMENT_CHARACTERS = 4000
BLOCK_CHARACTERS = 1 << 20
POINTER = b"version https://git-lfs"
LONGEST_FIELD = 2**31 - 1
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What stands beside the rows in a data set's folder: its card, and what datasets' save_to_disk notes down.
NOT_ROWS = ("readme.md", "state.json", "dataset_info.json", "dataset_dict.json")
BLANK_LINES = re.compile(r"\n\n+")
HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")


def local_files(name: str) -> list[Path]:
    """The files that a path, folder or glob stands for, sorted."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and extension_of(file) in READERS]
        found = [file for file in files if file.name.lower() not in NOT_ROWS]
        if not found:
            raise UserError(f"The folder {name} holds no data.", expected=f"files ending in {', '.join(READERS)}")
        return found
    if path.is_file():
        return [path]
    found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
    if not found:
        raise _missing(path)
    return found


def split_files(name: str, split: str) -> list[Path]:
    """The files of one split."""
    files, splits = local_files(name), local_splits(name)
    if splits:
        files = [file for file in files if _split_of(file, name) == split]
    if not files or (not splits and split != "train"):
        raise UserError(
            f"{name} has no split {split}.",
            got=f"the split(s) {', '.join(sorted(splits)) or 'train'}",
            expected=f"a folder with files named {split}.EXTENSION",
            fix="leave dataset_test_split unset to have a share of the rows split off (eval_share)",
        )
    return files


def read_files(files: list[Path]) -> Dataset:
    """All rows of files of one kind, memory-mapped from datasets' cache; read again when a file or a reader changed.

    Raises NoRowsError where there are none.
    """
    from alignment.data.reading.arrow_cache import cached_tables, code_digest, file_states

    reader = _reader(files)
    _refuse_pointers(files)
    key = ("files", code_digest(__file__), file_states(files))
    return cached_tables(key, lambda notes: reader(files))[0]


def local_splits(name: str) -> set[str]:
    """The splits that a folder's files, or the folders in it, are named after; none for a file or a glob."""
    if not Path(name).expanduser().is_dir():
        return set()
    return {split for file in local_files(name) if (split := _split_of(file, name))}


def _split_of(file: Path, folder: str) -> str | None:
    parts = file.relative_to(Path(folder).expanduser()).parts
    matches = (re.match(r"(train|validation|valid|dev|test)(?![a-z])", part) for part in reversed(parts))
    return next((match[1] for match in matches if match), None)


def extension_of(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _reader(files: list[Path]) -> Callable[[list[Path]], Tables]:
    extensions = sorted({extension_of(file) for file in files})
    readers = {READERS.get(extension) for extension in extensions}
    if len(readers) > 1 or None in readers:
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
            expected=f"{extensions[0]} as it is: the format compresses by itself",
            fix=f"gunzip {zipped[0]}",
        )
    return readers.pop()


def _refuse_pointers(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(POINTER)) == POINTER:
                raise UserError(
                    f"{file} is not the data but a pointer to it.",
                    got="a git-LFS pointer, which a clone leaves where the large files were not fetched",
                    expected="the file itself",
                    fix="run `git lfs pull` in that repository, or download the file from its page",
                )


def _missing(path: Path) -> UserError:
    """The error for a path that does not exist; it names the file that may have been meant."""
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


# Opening ------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, out of gzip if need be; what is wrong with them on the way becomes a UserError."""
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            yield stream
    except EOFError:
        raise UserError(
            f"{file} is cut off.",
            got="gzip data that ends in the middle",
            expected="the whole file",
            fix="download or write it again",
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"Cannot read {file}.",
            got=str(error),
            expected="data compressed by gzip",
            fix="drop the .gz, or compress it",
        ) from None


@contextmanager
def _opened_text(file: Path) -> Iterator[IO[str]]:
    """The text of a file, without a byte order mark and with \\n at line ends."""
    try:
        with _opened(file) as stream:
            yield TextIOWrapper(stream, encoding="utf-8-sig")
    except UnicodeDecodeError:
        with _opened(file) as stream:
            for number, line in enumerate(stream, start=1):
                _decode(file, line, number)
        raise


def _decode(file: Path, line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 at line {number}.",
            got=f"byte 0x{line[error.start]:02x} after {line[max(0, error.start - 30) : error.start]!r}",
            expected="text in UTF-8",
            fix=f"convert the file, for example with iconv -f LATIN1 -t UTF-8 {file}",
        ) from None


# JSON ---------------------------------------------------------------------------------------------------------------


def read_json(files: list[Path]) -> Tables:
    """Files that hold one object a line, or one list of objects. The columns are the union of their keys.

    The files are read twice: once for the columns and their types, once for the rows. A column that holds objects or
    values of several types is kept as JSON, and gives back what stood there.
    """
    import pyarrow
    from datasets import Features

    from alignment.data.reading.arrow_cache import batches

    types: dict[str, pyarrow.DataType] = {}
    for rows in batches(_sized_rows(files)):
        for name, values in _columns(rows).items():
            types[name] = merged_type(types.get(name, pyarrow.null()), column_type(values))
    schema = Features.from_arrow_schema(pyarrow.schema(types)).arrow_schema
    for rows in batches(_sized_rows(files)):
        columns = _columns(rows, schema.names)
        yield pyarrow.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def column_type(values: list[Any]) -> pyarrow.DataType:
    """The Arrow type that holds all values exactly; JSON where there is none, and for objects."""
    import pyarrow

    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {str}:
        return pyarrow.string()
    if len(kinds) > 1 and kinds != {int, float}:
        return pyarrow.json_()
    try:
        found = pyarrow.array(values).type
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError, OverflowError):
        return pyarrow.json_()
    # Not a struct: Arrow would give every object the keys of all others.
    return pyarrow.json_() if "struct<" in str(found) else found


def merged_type(one: pyarrow.DataType, other: pyarrow.DataType) -> pyarrow.DataType:
    """The type of a column whose batches have these types."""
    import pyarrow

    if pyarrow.types.is_null(one) or one == other:
        return other
    if pyarrow.types.is_null(other):
        return one
    if {str(one), str(other)} == {"int64", "double"}:
        return pyarrow.float64()
    if pyarrow.types.is_list(one) and pyarrow.types.is_list(other):
        inner = merged_type(one.value_type, other.value_type)
        return pyarrow.json_() if inner == pyarrow.json_() else pyarrow.list_(inner)
    return pyarrow.json_()


def _array(values: list[Any], type: pyarrow.DataType) -> pyarrow.Array:
    import pyarrow

    if type == pyarrow.json_():
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        return pyarrow.ExtensionArray.from_storage(type, pyarrow.array(texts, pyarrow.string()))
    return pyarrow.array(values, type)


def _columns(rows: list[dict[str, Any]], names: Iterable[str] | None = None) -> dict[str, list[Any]]:
    names = names or dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _sized_rows(files: list[Path]) -> Iterator[tuple[dict[str, Any], int]]:
    """The objects of the files, each with its size as text."""
    for file in files:
        with _opened(file) as stream:
            head = []
            for line in stream:
                head.append(line)
                if line.removeprefix(BYTE_ORDER_MARK).strip():
                    break
            if b"".join(head).removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["):
                yield from _list_rows(file, b"".join(head) + stream.read())
            else:
                yield from _line_rows(file, itertools.chain(head, stream))


def _list_rows(file: Path, data: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    lines = [_decode(file, line, number) for number, line in enumerate(data.split(b"\n"), start=1)]
    values = _parse_json(file, "\n".join(lines), 1)
    size = len(data) // max(1, len(values))
    halves = bool(HALF_CHARACTER.search(data))
    for number, value in enumerate(values, start=1):
        yield _check_object(file, value, f"item {number}", check_halves=halves), size


def _line_rows(file: Path, lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
    # Bytes end lines at \n alone: strings may hold separators such as U+2028 as they are.
    for number, line in enumerate(lines, start=1):
        text = _decode(file, line, number).removesuffix("\n")
        if text.strip():
            value = _parse_json(file, text, number)
            halves = bool(HALF_CHARACTER.search(line))
            yield _check_object(file, value, f"line {number}", check_halves=halves), len(line)


def _parse_json(file: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file} is not valid JSON at line {line + error.lineno - 1}, column {error.colno}: {error.msg}.",
            got=repr(text[max(0, error.pos - 30) : error.pos + 30]),
            expected="one JSON object a line, or one list of objects",
            fix="correct that line",
        ) from None


def _check_object(file: Path, value: Any, where: str, *, check_halves: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            f"{file} holds something other than objects at {where}.",
            got=f"{type(value).__name__}: {str(value)[:60]}",
            expected='objects with named columns, such as {"text": "..."}',
        )
    try:
        if check_halves:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{file} holds half a character at {where}.",
            got=f"the escape \\u{ord(error.object[error.start]):04x} (a surrogate without its other half)",
            expected="text that can be written as UTF-8",
            fix="correct or delete it",
        ) from None
    return value


# Text ---------------------------------------------------------------------------------------------------------------


def read_text(files: list[Path]) -> Tables:
    """Each file as one or more documents in a column `text`."""
    import pyarrow
    from datasets import Features, Value

    from alignment.data.reading.arrow_cache import batches

    schema = Features({"text": Value("string")}).arrow_schema
    for documents in batches((document, len(document)) for file in files for document in _file_documents(file)):
        yield pyarrow.Table.from_pydict({"text": documents}, schema=schema)


def _file_documents(file: Path) -> Iterator[str]:
    with _opened_text(file) as stream:
        yield from _documents(iter(lambda: stream.read(BLOCK_CHARACTERS), ""), DOCUMENT_CHARACTERS)


def split_documents(text: str, characters: int = DOCUMENT_CHARACTERS) -> list[str]:
    """Cut a text into documents of at most about `characters`, with nothing lost but the blank lines at the cuts.

    A text that is short enough is one document. Cuts are at blank lines; a paragraph too long to be a document is cut
    at line ends, and a line that is too long stays whole.
    """
    return list(_documents([text], characters))


def _documents(blocks: Iterable[str], characters: int) -> Iterator[str]:
    document, size = [], 0
    for unit in itertools.chain(_units(blocks, characters), [None]):
        if unit is None or (document and size + len(unit) > characters):
            text = "".join(document).strip("\n")
            if text.strip():
                yield text
            document, size = [], 0
        if unit is not None:
            document.append(unit)
            size += len(unit)


def _units(blocks: Iterable[str], characters: int) -> Iterator[str]:
    """The paragraphs of a text that comes in blocks; of those longer than `characters`, the lines.

    `rest` is the paragraph whose end is not known yet. Once it is too long, its lines go out as they are complete.
    """
    rest, is_long = "", False
    for block in blocks:
        *paragraphs, rest = _paragraphs(rest + block)
        for paragraph in paragraphs:
            yield from _paragraph_units(paragraph, is_long or len(paragraph) > characters)
            is_long = False
        is_long = is_long or (len(rest) > characters and bool(rest.strip()))
        if is_long:
            # The last line stays, with the blank lines after it: whether they end the paragraph shows what follows.
            said = rest.rstrip("\n")
            *lines, last = said.splitlines(keepends=True) or [""]
            yield from lines
            rest = last + rest[len(said) :]
    yield from _paragraph_units(rest, is_long or len(rest) > characters)


def _paragraphs(text: str) -> list[str]:
    """A text cut after its blank lines."""
    ends = [match.end() for match in BLANK_LINES.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _paragraph_units(paragraph: str, is_long: bool) -> Iterator[str]:
    if is_long:
        yield from paragraph.splitlines(keepends=True)
    elif paragraph.strip():
        yield paragraph


# Tables -------------------------------------------------------------------------------------------------------------


def read_csv(files: list[Path]) -> Tables:
    """Comma- or tab-separated files with a header line; every value is text, the empty ones too."""
    import pyarrow
    from datasets import Features, Value

    from alignment.data.reading.arrow_cache import batches

    names = dict.fromkeys(name for file in files for name in next(_csv_rows(file)))
    schema = Features(dict.fromkeys(names, Value("string"))).arrow_schema
    for file in files:
        lines = _csv_rows(file)
        header = next(lines)
        for rows in batches((row, sum(map(len, row))) for row in lines):
            columns = dict(zip(header, zip(*rows, strict=True), strict=True))
            missing = [None] * len(rows)
            arrays = [pyarrow.array(columns.get(name, missing), pyarrow.string()) for name in names]
            yield pyarrow.Table.from_arrays(arrays, schema=schema)


def _csv_rows(file: Path) -> Iterator[list[str]]:
    """The header of a CSV file and its rows, which all have as many values."""
    separator = "\t" if extension_of(file) == ".tsv" else ","
    header: list[str] = []
    with _opened_text(file) as stream, _long_fields():
        reader = csv.reader(stream, delimiter=separator, strict=True)
        try:
            for row in reader:
                if not row:  # a blank line
                    continue
                header = header or row
                if len(row) != len(header):
                    raise UserError(
                        f"Cannot read {file}: line {reader.line_num} has not as many values as the header.",
                        got=f"{len(row)} values",
                        expected=f"{len(header)}: {', '.join(header)}",
                        fix="quote values that hold a separator, and write missing ones as empty",
                    )
                yield row
        except csv.Error as error:
            raise UserError(
                f"Cannot read {file} at line {reader.line_num}.", got=str(error), expected="a header line and rows"
            ) from None
    if not header or len(set(header)) < len(header):
        raise UserError(f"Cannot read {file}.", got=f"the header {header}", expected="a header line of different names")


@contextmanager
def _long_fields() -> Iterator[None]:
    """Values of any length, where the csv module has a limit of 128 KiB."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def read_parquet(files: list[Path]) -> Tables:
    """Parquet files; columns that one of them lacks are null there."""
    import pyarrow.parquet

    from alignment.data.reading.arrow_cache import BATCH_ROWS

    def batches_of(file: Path) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
        parquet = pyarrow.parquet.ParquetFile(file)
        return parquet.schema_arrow, parquet.iter_batches(BATCH_ROWS)

    return _columnar(files, batches_of, "Parquet")


def read_arrow(files: list[Path]) -> Tables:
    """Arrow files as datasets writes them (the stream format), or in Arrow's file format."""
    import pyarrow

    def batches_of(file: Path) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
        source = pyarrow.memory_map(str(file))
        try:
            stream = pyarrow.ipc.open_stream(source)
            return stream.schema, iter(stream)
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_file(source)
            return table.schema, (table.get_batch(number) for number in range(table.num_record_batches))

    return _columnar(files, batches_of, "Arrow")


def _columnar(
    files: list[Path],
    batches_of: Callable[[Path], tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]],
    what: str,
) -> Tables:
    import pyarrow

    try:
        schemas = [batches_of(file)[0] for file in files]
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        if any(other != schema for other in schemas):
            schema = schema.remove_metadata()  # datasets' own, which describes the types of one file
        for file in files:
            for batch in batches_of(file)[1]:
                table = pyarrow.Table.from_batches([batch])
                whole = pyarrow.concat_tables([schema.empty_table(), table], promote_options="permissive")
                yield whole.replace_schema_metadata(schema.metadata)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OSError) as error:
        names = ", ".join(map(str, files))
        raise UserError(f"Cannot read {names}.", got=str(error), expected=f"{what} files of like columns") from None


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
