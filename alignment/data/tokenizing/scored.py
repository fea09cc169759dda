"""Rows that score every token of documents once, for bits per byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from alignment.data.tokenizing.packing import IGNORED, best_fit_decreasing
from alignment.data.tokenizing.shards import lists_of
from alignment.data.tokenizing.tokens import added_around

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from alignment.data.tokenizing.tokens import TokenizedDocuments


class ScoredTexts(torch.utils.data.Dataset):
    """Rows {input_ids, position_ids, labels, shift_labels}, each an int64 tensor of `length` tokens.

    The targets (`shift_labels`) are the tokens of each document's text, as in lm-eval's rolling log-likelihood and so
    in the suites `text` and `tinyworld_bpb`: the first token is predicted from the BOS token (EOS if the tokenizer has
    no BOS), and tokens that the tokenizer or `tokenize` adds around a text are not scored. A text longer than a row is
    scored in windows; the last window has as much context as fits. A row has several texts, which do not attend to each
    other.
    """

    def __init__(self, documents: TokenizedDocuments, tokenizer: PreTrainedTokenizerBase, length: int, pad_id: int):
        self.before, self.after = added_around(tokenizer)
        self.prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self.length, self.pad_id = length, pad_id
        self.stored = documents.dataset().with_format("arrow")
        sizes = [len(ids) - self.before - self.after for ids in documents]
        pieces = [(at, *window) for at, size in enumerate(sizes) for window in scoring_windows(size, length)]
        self.pieces = np.array(pieces, dtype=np.int64).reshape(-1, 4)
        self.rows = best_fit_decreasing((self.pieces[:, 2] - self.pieces[:, 1]).tolist(), length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        wanted = np.unique([self.pieces[member, 0] for index in indices for member in self.rows[index]]).tolist()
        column = self.stored[wanted].combine_chunks()["input_ids"].chunk(0)
        texts = {at: self._text(ids) for at, ids in zip(wanted, lists_of(column), strict=True)}
        return [self._row([self.pieces[member] for member in self.rows[index]], texts) for index in indices]

    def _text(self, ids: np.ndarray) -> np.ndarray:
        """Return the prefix token and the tokens of the text."""
        return np.concatenate([[self.prefix], ids[self.before : len(ids) - self.after]])

    def _row(self, pieces: list[np.ndarray], texts: dict[int, np.ndarray]) -> dict[str, torch.Tensor]:
        columns = {
            name: np.zeros(self.length, dtype=np.int64) for name in ("input_ids", "position_ids", "shift_labels")
        }
        columns["input_ids"][:] = self.pad_id
        columns["shift_labels"][:] = IGNORED
        place = 0
        for at, start, end, first in pieces:
            size, text = end - start, texts[at]
            columns["input_ids"][place : place + size] = text[start:end]
            columns["position_ids"][place : place + size] = np.arange(size)
            columns["shift_labels"][place + first - start : place + size] = text[first + 1 : end + 1]
            place += size
        row = {name: torch.from_numpy(column) for name, column in columns.items()}
        return row | {"labels": row["input_ids"]}  # models require labels; the targets are shift_labels


def scoring_windows(size: int, length: int) -> list[tuple[int, int, int]]:
    """Return windows (start, end, first) of a text's inputs; inputs from `first` on predict tokens not scored before.

    Args:
        size: number of tokens of the text, and of inputs: the prefix token and all tokens except the last.
        length: largest number of inputs in a window.
    """
    firsts = range(0, size, length)
    ends = [min(first + length, size) for first in firsts]
    return [(max(0, end - length), end, first) for first, end in zip(firsts, ends, strict=True)]
