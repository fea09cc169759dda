"""Opening of local files: gzip, UTF-8 and byte order marks, with errors that name the file and the line."""

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
    """Return a path's extension, ignoring a final `.gz`."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


@contextmanager
def opened(file: Path) -> Iterator[BufferedReader | gzip.GzipFile]:
    """Open a file's bytes, decompressed if it is gzip; errors of compression become UserErrors."""
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            yield stream
    except EOFError:
        raise UserError(
            f"{file} is truncated.",
            got="gzip data without its end",
            expected="the whole file",
            fix="download or write the file again",
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"Cannot read {file}.",
            got=str(error),
            expected="data compressed by gzip",
            fix="remove .gz from the name, or compress the file",
        ) from None


@contextmanager
def opened_text(file: Path) -> Iterator[IO[str]]:
    """Open a file's text, without a byte order mark and with \\n as line ends."""
    try:
        with opened(file) as stream:
            yield TextIOWrapper(stream, encoding="utf-8-sig")
    except UnicodeDecodeError:
        with opened(file) as stream:
            for number, line in enumerate(stream, start=1):
                decode(file, line, number)
        raise


def decode(file: Path, line: bytes, number: int) -> str:
    """Decode a line of a file, given its number from 1, from UTF-8."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 at line {number}.",
            got=f"byte 0x{line[error.start]:02x} after {line[max(0, error.start - 30) : error.start]!r}",
            expected="text in UTF-8",
            fix=f"convert the file, for example with iconv -f LATIN1 -t UTF-8 {file}",
        ) from None
