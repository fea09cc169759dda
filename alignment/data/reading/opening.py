"""Open local files: gzip, UTF-8 and byte order marks, with errors that name the file and the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO

from alignment.errors import UserError


def extension_of(path: Path) -> str:
    """Return a path's extension, without regard to a `.gz` after it."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


@contextmanager
def opened(file: Path) -> Iterator[BufferedReader | gzip.GzipFile]:
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
def opened_text(file: Path) -> Iterator[IO[str]]:
    """The text of a file, without a byte order mark and with \\n at line ends."""
    try:
        with opened(file) as stream:
            yield TextIOWrapper(stream, encoding="utf-8-sig")
    except UnicodeDecodeError:
        with opened(file) as stream:
            for number, line in enumerate(stream, start=1):
                decode(file, line, number)
        raise


def decode(file: Path, line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 at line {number}.",
            got=f"byte 0x{line[error.start]:02x} after {line[max(0, error.start - 30) : error.start]!r}",
            expected="text in UTF-8",
            fix=f"convert the file, for example with iconv -f LATIN1 -t UTF-8 {file}",
        ) from None
