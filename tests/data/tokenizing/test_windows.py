"""Windows over the tokens of all documents: nothing left out, nothing read twice by accident."""

import pyarrow as pa
import pytest
import torch

from alignment.data.tokenizing.shards import write_shards
from alignment.data.tokenizing.tokens import TokenizedDocuments
from alignment.data.tokenizing.windows import TokenWindows
from alignment.errors import UserError


@pytest.fixture
def documents(tmp_path):
    """The ids 0 to 49, in documents of uneven lengths over three batches."""
    batches = [[range(7), range(7, 8)], [range(8, 30)], [range(30, 33), range(33, 50)]]
    write_shards(
        (pa.record_batch({"input_ids": pa.array([list(ids) for ids in one], pa.list_(pa.int32()))}) for one in batches),
        tmp_path,
    )
    return TokenizedDocuments(tmp_path, documents=5, tokens=50, text_bytes=50)


@pytest.mark.parametrize(("length", "stride"), [(6, 6), (6, 1), (25, 3), (49, 1)])
def test_each_window_goes_on_where_it_starts(documents, length, stride):
    windows = TokenWindows(documents, length, stride)
    starts = range(0, 50 - length, stride)
    assert len(windows) == len(starts)
    rows = windows.__getitems__(list(range(len(windows))))
    for start, row in zip(starts, rows, strict=True):
        assert row["input_ids"].tolist() == row["labels"].tolist() == list(range(start, start + length))
        assert row["shift_labels"].tolist() == list(range(start + 1, start + length + 1))
    assert torch.equal(windows[1 % len(windows)]["input_ids"], rows[1 % len(windows)]["input_ids"])


def test_windows_of_their_own_length_ask_for_every_token_but_the_first_and_a_rest(documents):
    asked = [row["shift_labels"] for row in TokenWindows(documents, 7, 7)]
    assert torch.cat(asked).tolist() == list(range(1, 50))


def test_a_text_shorter_than_a_window_is_an_error(documents):
    with pytest.raises(UserError, match="shorter than a window"):
        TokenWindows(documents, 50, 1)
