"""Packing of documents into rows of one length, whose documents do not attend to each other."""

from __future__ import annotations

import bisect
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from alignment.data.tokenizing.grouping import grouped
from alignment.data.tokenizing.shards import cached_folder, lists_of, map_shards, write_shards
from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from alignment.data.tokenizing.tokens import TokenizedDocuments

logger = logging.getLogger(__name__)

IGNORED = -100  # the label without a loss
FORMAT = 1  # of the shards; part of their folder's name
REPORT = "packing.json"
ROWS_A_BATCH = 1000
# Documents are packed in windows of at least this many tokens and rows: large enough to fill rows well, and small
# enough for memory.
WINDOW_TOKENS, WINDOW_ROWS = 2**22, 512


@dataclass(frozen=True)
class PackingReport:
    """Sizes of packed rows."""

    documents: int
    pieces: int
    tokens: int
    rows: int
    length: int

    @property
    def efficiency(self) -> float:
        """The share of positions with a document's token rather than padding."""
        return self.tokens / (self.rows * self.length)

    def __str__(self) -> str:
        return (
            f"packed {self.documents} documents ({self.tokens} tokens) in {self.pieces} pieces into {self.rows} rows "
            f"of {self.length}: {self.efficiency:.1%} full"
        )


class PackedRows(torch.utils.data.Dataset):
    """Memory-mapped rows {input_ids, position_ids, labels}, each an int64 tensor of `length` tokens.

    position_ids restart at each document; from them the model derives a mask that keeps documents apart (pass no
    attention mask, and use_cache=False). Labels equal input_ids, since the model shifts them, except that a piece's
    first token has -100: the token before it belongs to another document. Padding is at the end of a row, without
    labels and always with position 0: each padding token is a separate document, by which models recognise it.

    On disk a row is the ids of its pieces and their lengths; the other columns are computed when the row is read.
    """

    def __init__(self, folder: Path, pad_id: int):
        self.report = PackingReport(**json.loads((folder / REPORT).read_text(encoding="utf-8")))
        self.stored = map_shards(folder).with_format("arrow")
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        """Return several rows, as data loaders request them: five times as fast as row by row."""
        table = self.stored[indices].combine_chunks()
        ids, lengths = (lists_of(table[name].chunk(0)) for name in ("input_ids", "lengths"))
        return [unfold(*row, self.report.length, self.pad_id) for row in zip(ids, lengths, strict=True)]


def pack(documents: TokenizedDocuments, length: int, pad_id: int, window_tokens: int = WINDOW_TOKENS) -> PackedRows:
    """Pack documents into rows of `length` tokens by best-fit decreasing; all tokens are kept.

    Documents longer than `length` are split into pieces, which are packed like documents. The rows are cached in the
    folder of the documents' token ids. A corpus smaller than a window is packed as a whole.
    """
    window = max(window_tokens, WINDOW_ROWS * length)
    folder = documents.folder / f"rows-{FORMAT}-{length}-{window}"
    cached = cached_folder(folder, lambda partial: write_rows(documents, length, window, partial))
    rows = PackedRows(folder, pad_id)
    logger.info("%s%s", rows.report, f" (taken from the cache, {folder})" if cached else "")
    return rows


def write_rows(documents: Iterable[np.ndarray], length: int, window: int, folder: Path) -> None:
    """Pack documents window by window into shards of rows {input_ids, lengths} in `folder`."""
    counts = {"documents": 0, "pieces": 0, "tokens": 0, "rows": 0}

    def counted() -> Iterator[np.ndarray]:
        for document in documents:
            counts["documents"] += 1
            counts["tokens"] += len(document)
            yield document

    def packed() -> Iterator[pa.RecordBatch]:
        for pieces in windows(split(counted(), length), window):
            bins = best_fit_decreasing([len(piece) for piece in pieces], length)
            counts["pieces"] += len(pieces)
            counts["rows"] += len(bins)
            for start in range(0, len(bins), ROWS_A_BATCH):
                yield fold([[pieces[member] for member in members] for members in bins[start : start + ROWS_A_BATCH]])

    write_shards(packed(), folder)
    if not counts["rows"]:
        raise UserError("There is nothing to pack.", got="no tokens", expected="documents that are not empty")
    (folder / REPORT).write_text(json.dumps(asdict(PackingReport(**counts, length=length))) + "\n", encoding="utf-8")


def split(documents: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Split documents into pieces of at most `length` tokens."""
    for document in documents:
        for start in range(0, len(document), length):
            yield document[start : start + length]


def windows(pieces: Iterable[np.ndarray], tokens: int) -> Iterator[list[np.ndarray]]:
    """Group pieces into lists of `tokens` tokens, or a little more; the last may have fewer."""
    return grouped(pieces, len, tokens)


def fold(rows: Sequence[Sequence[np.ndarray]]) -> pa.RecordBatch:
    """Convert rows of pieces to {input_ids: ids of all pieces, lengths: length of each piece}, both int32."""
    import pyarrow as pa

    lengths = [np.array([len(piece) for piece in row], dtype=np.int32) for row in rows]
    pieces = [piece for row in rows for piece in row]
    ids_ends = np.cumsum([0, *(length.sum() for length in lengths)], dtype=np.int32)
    lengths_ends = np.cumsum([0, *(len(length) for length in lengths)], dtype=np.int32)
    return pa.record_batch(
        {
            "input_ids": pa.ListArray.from_arrays(pa.array(ids_ends), pa.array(np.concatenate(pieces))),
            "lengths": pa.ListArray.from_arrays(pa.array(lengths_ends), pa.array(np.concatenate(lengths))),
        }
    )


def unfold(ids: np.ndarray, lengths: np.ndarray, length: int, pad_id: int) -> dict[str, torch.Tensor]:
    """Convert the ids and lengths of a row's pieces to input_ids, position_ids and labels, each (length,)."""
    filled = len(ids)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    input_ids = np.full(length, pad_id, dtype=np.int64)
    input_ids[:filled] = ids
    labels = np.full(length, IGNORED, dtype=np.int64)
    labels[:filled] = ids
    labels[starts] = IGNORED
    position_ids = np.arange(length, dtype=np.int64)
    position_ids[filled:] = 0
    position_ids[:filled] -= np.repeat(starts, lengths)
    columns = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def best_fit_decreasing(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Return bins of indices into `sizes`: the longest first, each in the fullest bin with enough room."""
    bins: list[list[int]] = []
    bins_by_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # keys of bins_by_room with at least one bin, sorted
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        at = bisect.bisect_left(rooms, sizes[index])
        if at < len(rooms):
            room = rooms[at]
            chosen = bins_by_room[room].pop()
            if not bins_by_room[room]:
                del rooms[at]
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        left = room - sizes[index]
        if left and not bins_by_room[left]:
            bisect.insort(rooms, left)
        if left:
            bins_by_room[left].append(chosen)
    return bins
