"""Documents -> token ids -> rows of one length, each holding several documents that do not see each other."""

from __future__ import annotations

import bisect
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignment.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORED = -100  # the label that the loss skips
TOKENIZE_BATCH = 1000


@dataclass(frozen=True)
class PackingReport:
    """How full the packed rows are."""

    documents: int
    pieces: int
    tokens: int
    rows: int
    length: int

    @property
    def efficiency(self) -> float:
        """The share of positions that hold a document's token, the rest being padding."""
        return self.tokens / (self.rows * self.length)

    def __str__(self) -> str:
        return (
            f"packed {self.documents} documents ({self.tokens} tokens) in {self.pieces} pieces into {self.rows} rows "
            f"of {self.length}: {self.efficiency:.1%} full"
        )


def tokenize_documents(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The ids of each document's `text`, ended by the EOS token.

    What the tokenizer adds at the beginning of a text by itself (a BOS token) is kept. Text that reads like a special
    token, `<|end|>` for instance, stays text: a document cannot end itself.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError(
            "Documents cannot be told apart: the tokenizer has no EOS token.",
            needed="a tokenizer with an eos_token",
            mend="set tokenizer.eos_token and save the tokenizer again",
        )
    documents = []
    for batch in dataset.select_columns(["text"]).iter(TOKENIZE_BATCH):
        # verbose=False: documents longer than the context are fine here, packing splits them.
        encoded = tokenizer(batch["text"], split_special_tokens=True, return_attention_mask=False, verbose=False)
        for ids in encoded["input_ids"]:
            # Some tokenizers end every text by themselves (T5's does).
            ended = ids if ids and ids[-1] == eos else [*ids, eos]
            documents.append(np.asarray(ended, dtype=np.int32))
    return documents


def pack(documents: Sequence[Sequence[int]], length: int, pad_id: int) -> tuple[Dataset, PackingReport]:
    """Rows {input_ids, position_ids, labels} of `length` tokens, by best-fit decreasing; every token is kept.

    position_ids restart at each document, from which the model derives a mask that keeps documents apart (pass no
    attention mask, and use_cache=False). Documents longer than `length` are split, each piece standing alone.
    Labels equal input_ids, for the model shifts them itself, except that a piece's first token has -100: the token
    before it belongs to another document. Padding stands at a row's end, as a document of its own without labels.
    """
    from datasets import Dataset

    pieces = [
        np.asarray(document[start : start + length], dtype=np.int32)
        for document in documents
        for start in range(0, len(document), length)
    ]
    if not pieces:
        raise UserError("There is nothing to pack.", got="no tokens", needed="documents that are not empty")
    rows = best_fit_decreasing([len(piece) for piece in pieces], length)

    input_ids = np.full((len(rows), length), pad_id, dtype=np.int32)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int32)
    position_ids = np.empty((len(rows), length), dtype=np.int32)
    ramp = np.arange(length, dtype=np.int32)
    for row, members in enumerate(rows):
        start = 0
        for member in members:
            piece = pieces[member]
            end = start + len(piece)
            input_ids[row, start:end] = piece
            labels[row, start + 1 : end] = piece[1:]
            position_ids[row, start:end] = ramp[: len(piece)]
            start = end
        position_ids[row, start:] = ramp[: length - start]

    tokens = sum(len(piece) for piece in pieces)
    report = PackingReport(len(documents), len(pieces), tokens, len(rows), length)
    logger.info("%s", report)
    columns = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
    return Dataset.from_dict(columns).with_format("torch"), report


def best_fit_decreasing(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices into `sizes`: the longest first, each into the fullest bin that still has room for it."""
    bins: list[list[int]] = []
    bins_by_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # the keys of bins_by_room that hold a bin, sorted
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
