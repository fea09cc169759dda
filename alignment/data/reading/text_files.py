"""Text files as documents, cut at blank lines."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.data.reading.opening import opened_text

if TYPE_CHECKING:
    import pyarrow

# Length of the documents that a text file is cut into.
DOCUMENT_CHARACTERS = 4000
BLOCK_CHARACTERS = 1 << 20
BLANK_LINES = re.compile(r"\n\n+")


def read_text(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables with a column `text` of documents; each file is one or more documents."""
    import pyarrow
    from datasets import Features, Value

    from alignment.data.reading.arrow_cache import batches

    schema = Features({"text": Value("string")}).arrow_schema
    for documents in batches((document, len(document)) for file in files for document in _file_documents(file)):
        yield pyarrow.Table.from_pydict({"text": documents}, schema=schema)


def _file_documents(file: Path) -> Iterator[str]:
    with opened_text(file) as stream:
        yield from _documents(iter(lambda: stream.read(BLOCK_CHARACTERS), ""), DOCUMENT_CHARACTERS)


def split_documents(text: str, characters: int = DOCUMENT_CHARACTERS) -> list[str]:
    """Cut a text into documents of at most about `characters`; only the blank lines at the cuts are lost.

    A text that is short enough is one document. Cuts are at blank lines; a paragraph that is longer than a document is
    cut at line ends, and a longer line is kept whole.
    """
    return list(_documents([text], characters))


def _documents(blocks: Iterable[str], characters: int) -> Iterator[str]:
    document: list[str] = []
    size = 0
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
    """Yield the paragraphs of a text given in blocks; of paragraphs longer than `characters`, the lines.

    `rest` is the paragraph whose end is not known yet. Once it is too long, its complete lines are yielded.
    """
    rest, is_long = "", False
    for block in blocks:
        *paragraphs, rest = _paragraphs(rest + block)
        for paragraph in paragraphs:
            yield from _paragraph_units(paragraph, is_long or len(paragraph) > characters)
            is_long = False
        is_long = is_long or (len(rest) > characters and bool(rest.strip()))
        if is_long:
            # The last line and the line breaks after it stay: the next block shows whether they end the paragraph.
            said = rest.rstrip("\n")
            *lines, last = said.splitlines(keepends=True) or [""]
            yield from lines
            rest = last + rest[len(said) :]
    yield from _paragraph_units(rest, is_long or len(rest) > characters)


def _paragraphs(text: str) -> list[str]:
    """Split a text after its blank lines."""
    ends = [match.end() for match in BLANK_LINES.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _paragraph_units(paragraph: str, is_long: bool) -> Iterator[str]:
    if is_long:
        yield from paragraph.splitlines(keepends=True)
    elif paragraph.strip():
        yield paragraph
