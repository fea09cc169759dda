"""Windows of one length over the concatenated tokens of all documents, as in nanoGPT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from alignment.data.tokenizing.shards import read_shards
from alignment.errors import UserError

if TYPE_CHECKING:
    from alignment.data.tokenizing.tokens import TokenizedDocuments


class TokenWindows(torch.utils.data.Dataset):
    """Rows {input_ids, labels, shift_labels}, each an int64 tensor of `length` tokens, read from memory maps.

    A window may begin and end inside a document, and its tokens attend to earlier documents in it. `shift_labels` has
    all targets; that of the last token is the token after the window. A stride of 1 gives all possible windows, a
    stride of `length` gives disjoint ones.
    """

    def __init__(self, documents: TokenizedDocuments, length: int, stride: int):
        self.parts = [batch.column("input_ids").values.to_numpy() for batch in read_shards(documents.folder)]
        self.starts = np.cumsum([0, *map(len, self.parts)])
        self.length, self.stride = length, stride
        if len(self) < 1:
            raise UserError(
                "The text is shorter than a window.",
                got=f"{self.starts[-1]} tokens",
                expected=f"more than max_length={length}",
                fix="lower max_length, or use more text",
            )

    def __len__(self) -> int:
        spare = int(self.starts[-1]) - self.length - 1  # the first window takes length + 1 tokens
        return spare // self.stride + 1 if spare >= 0 else 0

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        tokens = torch.from_numpy(np.stack([self._tokens(index * self.stride) for index in indices]).astype(np.int64))
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        return [
            {"input_ids": row, "labels": row, "shift_labels": target}
            for row, target in zip(inputs, targets, strict=True)
        ]

    def _tokens(self, start: int) -> np.ndarray:
        """Return length + 1 tokens from `start` on."""
        end = start + self.length + 1
        first, last = np.searchsorted(self.starts, [start, end - 1], side="right") - 1
        pieces = [
            self.parts[part][max(start - self.starts[part], 0) : end - self.starts[part]]
            for part in range(first, last + 1)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
