"""Opening of local files: compression and encodings by content, with errors that name the file and the line.

A name may be wrong: browsers unpack `.gz` files and keep the name, spreadsheets write UTF-16. The first bytes say what
a file is: gzip, Parquet and Arrow have a signature; UTF-16 and UTF-32 have a byte order mark, or null bytes at every
second place.
"""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import re
import shlex
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from _typeshed import SupportsRead, WriteableBuffer

HEAD = 4096  # bytes that show what a file is
# Signature -> format, and how to unpack it.
SIGNATURES = {
    rb"\x1f\x8b": ("gzip", "gunzip -c {file} > {new}"),
    rb"BZh[1-9]1AY&SY": ("bzip2", "bunzip2 -c {file} > {new}"),
    rb"\xfd7zXZ\x00": ("xz", "unxz -c {file} > {new}"),
    rb"\x28\xb5\x2f\xfd": ("zstandard", "zstd -dc {file} > {new}"),
    rb"PK\x03\x04": ("a zip archive, or an Excel or Word file", "unpack the archive, or save the table as CSV"),
    rb"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack the archive"),
    rb"%PDF-": ("PDF", "save the text of the document as .txt"),
    rb"SQLite format 3\x00": ("an SQLite database", "export the table as CSV"),
}
PACKED = re.compile(r"\.(bz2|xz|zst|zip|7z)$", re.IGNORECASE)
COLUMNAR = {b"PAR1": ".parquet", b"ARROW1\x00\x00": ".arrow"}
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NULL_SHARE = 0.25  # of UTF-16 units with a null byte, from which on bytes without a mark are UTF-16


def extension_of(path: Path) -> str:
    """Return a path's extension in lower case, ignoring a final `.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def refuse_null_bytes(names: Iterable[str]) -> None:
    """Raise for names of columns with a null byte, at which Arrow cuts them."""
    wrong = [name for name in names if "\0" in name]
    if wrong:
        raise UserError(
            f"The data has a column with a null byte in its name: {', '.join(map(repr, wrong))}.",
            got=f"columns {', '.join(map(repr, names))}",
            expected="names of text",
            fix="rename the column in the file",
        )


def head_of(file: Path) -> bytes:
    """Return the first bytes of a file, as they are stored."""
    try:
        with file.open("rb") as stream:
            return stream.read(HEAD)
    except OSError as error:
        raise cannot_read(file, error) from None


def columnar_extension(file: Path) -> str | None:
    """Return `.parquet` or `.arrow` for a file in that format, whatever its name; None for other files."""
    head = head_of(file)
    return next((extension for mark, extension in COLUMNAR.items() if head.startswith(mark) and b"\0" in head), None)


def is_text(data: bytes) -> bool:
    """Return whether bytes are text in UTF-8; the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def cannot_read(file: Path, error: OSError) -> UserError:
    """Return the error for a file that the system refuses to read."""
    refused = error.errno in (errno.EACCES, errno.EPERM)
    return UserError(
        f"Cannot read {file}.",
        got=error.strerror or str(error),
        expected="a file that can be read",
        fix=f"allow reading: chmod u+r {shlex.quote(str(file))}" if refused else "check the path and its disk",
    )


@contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    """Open a file's bytes: decompressed if it is gzip, as UTF-8 if it is UTF-16 or UTF-32.

    Errors of the system, of compression and of these encodings become UserErrors.
    """
    try:
        with file.open("rb") as stored:
            packed = stored.peek(2).startswith(b"\x1f\x8b")
            stream: io.BufferedReader | gzip.GzipFile = gzip.GzipFile(fileobj=stored) if packed else stored
            head = stream.peek(HEAD)[:HEAD]
            refuse_other_formats(file, head, "in gzip" if packed else None)
            encoding = encoding_of(head)
            yield io.BufferedReader(Recoded(stream, encoding)) if encoding else stream
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
            got=f"gzip data that are damaged: {error}",
            expected="data compressed by gzip",
            fix="download or write the file again",
        ) from None
    except UnicodeDecodeError as error:
        if error.encoding == "utf-8":  # the reader's, which names the line
            raise
        raise UserError(
            f"Cannot read {file}.",
            got=f"{error.encoding.upper()} that is damaged: {error.reason}",
            expected=f"text in UTF-8, or a whole file in {error.encoding.upper()}",
            fix="write the file again, in UTF-8",
        ) from None
    except OSError as error:
        raise cannot_read(file, error) from None


def refuse_other_formats(file: Path, head: bytes, where: str | None = None) -> None:
    """Raise for a format that is not text, given the first bytes of a file or of what gzip holds."""
    for signature, (name, command) in SIGNATURES.items():
        if re.match(signature, head, re.DOTALL):
            new = shlex.quote(str(file.with_name(f"unpacked-{PACKED.sub('', file.name)}")))
            quoted = shlex.quote(str(file))
            raise UserError(
                f"{file} is not text.",
                got=f"{file} is {name}" + (f" {where}" if where else ""),
                expected="text in UTF-8, which may be compressed by gzip once",
                fix=command.format(file=quoted, new=new),
            )


def encoding_of(head: bytes) -> str | None:
    """Return the encoding of a text's first bytes if it is UTF-16 or UTF-32; None for UTF-8 and all others."""
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    first, second = head[::2].count(0), head[1::2].count(0)
    if min(first, second) == 0 and max(first, second) > NULL_SHARE * len(head) / 2:
        return "utf-16-be" if first else "utf-16-le"
    return None


class Recoded(io.RawIOBase):
    """A stream of the UTF-8 bytes of a text in another encoding."""

    def __init__(self, stream: SupportsRead[bytes], encoding: str):
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        while not self._rest:
            data = self._stream.read(HEAD)
            self._rest = self._decoder.decode(data, final=not data).encode()
            if not data:
                break
        count = min(len(target), len(self._rest))
        target[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


@contextmanager
def opened_text(file: Path) -> Iterator[IO[str]]:
    """Open a file's text, without a byte order mark and with \\n as line ends."""
    try:
        with opened(file) as stream:
            yield io.TextIOWrapper(stream, encoding="utf-8-sig")
    except UnicodeDecodeError:
        with opened(file) as stream:
            for number, line in enumerate(stream, start=1):
                decode(file, line, number)
        raise


def decode(file: Path, line: bytes, number: int) -> str:
    """Decode a line of a file, given its number from 1, from UTF-8; a byte order mark is dropped.

    Marks are also inside files that were joined from several.
    """
    try:
        return line.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 at line {number}.",
            got=f"byte 0x{line[error.start]:02x} after {line[max(0, error.start - 30) : error.start]!r}",
            expected="text in UTF-8",
            fix=_conversion(file, line[max(0, error.start - 30) : error.start + 30]),
        ) from None


def _conversion(file: Path, excerpt: bytes) -> str:
    """Return the advice for a text in an encoding without a signature, with an excerpt as it would be read."""
    new = shlex.quote(str(file.with_name(f"converted-{file.name.removesuffix('.gz')}")))
    name = shlex.quote(str(file))
    packed = head_of(file).startswith(b"\x1f\x8b")
    try:
        code, shown = "WINDOWS-1252", excerpt.decode("cp1252")
    except UnicodeDecodeError:
        code, shown = "ENCODING", ""
    command = f"iconv -f {code} -t UTF-8"
    command = f"gunzip -c {name} | {command} > {new}" if packed else f"{command} {name} > {new}"
    if not shown:
        return f"convert the file from its encoding: {command}"
    return f"convert the file from its encoding; if it should read {shown.strip()!r}: {command}"
