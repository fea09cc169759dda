"""Packing: no token lost, documents kept apart, nothing predicted across a border, little held in memory."""

import random
import time
from collections import Counter
from itertools import pairwise

import gpt_tiny
import numpy as np
import pytest
import torch
from packed_equality import gradients, largest_difference
from transformers import default_data_collator

from alignment.data.tokenizing.packing import WINDOW_ROWS, PackedRows, best_fit_decreasing, fold, pack, windows
from alignment.data.tokenizing.shards import write_shards
from alignment.data.tokenizing.tokens import SUMMARY, TokenizedDocuments, list_array
from alignment.errors import UserError
from alignment.models.gpt import GPTConfig, GPTForCausalLM

PAD = 1


@pytest.fixture
def store(tmp_path):
    """Documents of known ids as `tokenize` would leave them, several record batches."""
    import json

    import pyarrow as pa

    def stored(documents, a_batch=100) -> TokenizedDocuments:
        folder = tmp_path / f"tokens-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        batches = (documents[start : start + a_batch] for start in range(0, len(documents), a_batch))
        write_shards((pa.record_batch({"input_ids": list_array(batch)}) for batch in batches), folder)
        counts = {"documents": len(documents), "tokens": sum(map(len, documents)), "text_bytes": 0}
        (folder / SUMMARY).write_text(json.dumps(counts))
        return TokenizedDocuments.read(folder)

    return stored


def random_documents(count, longest, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(2, 1000) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def listed(rows: PackedRows) -> list[dict[str, list[int]]]:
    return [{name: column.tolist() for name, column in row.items()} for row in rows]


def packed_in_memory(documents, length, pad_id) -> list[dict[str, list[int]]]:
    """What rows were before they were streamed: the whole corpus packed at once, position by position."""
    pieces = [document[start : start + length] for document in documents for start in range(0, len(document), length)]
    rows = []
    for members in best_fit_decreasing([len(piece) for piece in pieces], length):
        row = {"input_ids": [], "position_ids": [], "labels": []}
        for member in members:
            row["input_ids"] += pieces[member]
            row["position_ids"] += range(len(pieces[member]))
            row["labels"] += [-100, *pieces[member][1:]]
        left = length - len(row["input_ids"])
        row["input_ids"] += [pad_id] * left
        row["position_ids"] += [0] * left
        row["labels"] += [-100] * left
        rows.append(row)
    return rows


def documents_of(row):
    """The (tokens, labels) of each stretch of a row in which position_ids count up from 0."""
    starts = [*(row["position_ids"] == 0).nonzero().flatten().tolist(), len(row["position_ids"])]
    return [
        (row["input_ids"][start:end].tolist(), row["labels"][start:end].tolist()) for start, end in pairwise(starts)
    ]


def test_a_small_example(store):
    rows = pack(store([[10, 11, 12, 13, 14, 15], [20, 21], [30], [40, 41]], a_batch=3), length=4, pad_id=PAD)
    assert listed(rows) == [
        {"input_ids": [10, 11, 12, 13], "position_ids": [0, 1, 2, 3], "labels": [-100, 11, 12, 13]},
        {"input_ids": [14, 15, 20, 21], "position_ids": [0, 1, 0, 1], "labels": [-100, 15, -100, 21]},
        {"input_ids": [40, 41, 30, PAD], "position_ids": [0, 1, 0, 0], "labels": [-100, 41, -100, -100]},
    ]
    assert str(rows.report) == "packed 4 documents (11 tokens) in 5 pieces into 3 rows of 4: 91.7% full"


@pytest.mark.parametrize("length", [7, 32, 64])
def test_a_corpus_of_one_window_gives_the_rows_of_packing_it_at_once(store, length):
    documents = random_documents(300, longest=90)
    assert listed(pack(store(documents), length, PAD)) == packed_in_memory(documents, length, PAD)


def test_windows_are_packed_one_by_one(store):
    documents = random_documents(3000, longest=20)
    size = WINDOW_ROWS * 16
    rows = pack(store(documents), length=16, pad_id=PAD, window_tokens=1)
    expected, start, tokens = [], 0, 0
    pieces = [document[at : at + 16] for document in documents for at in range(0, len(document), 16)]
    for end, piece in enumerate(pieces, start=1):
        tokens += len(piece)
        if tokens >= size or end == len(pieces):
            expected += packed_in_memory(pieces[start:end], 16, PAD)
            start, tokens = end, 0
    assert listed(rows) == expected
    assert rows.report.rows == len(expected) and rows.report.tokens == sum(map(len, documents))


def test_windows_hold_the_pieces_in_order_and_no_more_than_they_should():
    pieces = [np.zeros(length) for length in (3, 4, 5, 1, 9, 1)]
    assert [[len(piece) for piece in window] for window in windows(pieces, 7)] == [[3, 4], [5, 1, 9], [1]]


def test_no_token_is_lost_and_pieces_stay_whole(store):
    documents = random_documents(300, longest=90)
    rows = pack(store(documents), length=32, pad_id=PAD)
    pieces = Counter(
        tuple(document[start : start + 32]) for document in documents for start in range(0, len(document), 32)
    )
    found = Counter(tuple(tokens) for row in rows for tokens, _ in documents_of(row) if tokens != [PAD] * len(tokens))
    assert found == pieces
    assert rows.report.tokens == sum(map(len, documents)) and rows.report.pieces == sum(pieces.values())


def test_rows_are_full_length_and_torch_one_by_one_and_in_batches(store):
    rows = pack(store(random_documents(50, longest=40)), length=32, pad_id=PAD)
    several = rows.__getitems__([3, 0, 3])
    for column in ("input_ids", "position_ids", "labels"):
        assert rows[3][column].shape == (32,) and rows[3][column].dtype == torch.int64
        assert [row[column].tolist() for row in several] == [rows[index][column].tolist() for index in (3, 0, 3)]


@pytest.mark.parametrize("window_tokens", [1, 2**22])
def test_padding_is_little_with_windows_too(store, window_tokens):
    lengths = np.random.default_rng(0).lognormal(4, 1, size=8000).astype(int) + 1  # words a document, long-tailed
    rows = pack(store([[5] * length for length in lengths]), length=256, pad_id=PAD, window_tokens=window_tokens)
    assert rows.report.efficiency > 0.98


def test_packed_rows_are_found_again_for_the_same_length_alone(store, caplog):
    documents = store(random_documents(50, longest=40))
    first = pack(documents, length=32, pad_id=PAD)
    with caplog.at_level("INFO"):
        again, other = pack(documents, length=32, pad_id=7), pack(documents, length=16, pad_id=PAD)
    hit, miss = [record.getMessage() for record in caplog.records if record.name == pack.__module__]
    assert "taken from the cache" in hit and "taken from the cache" not in miss
    assert [row["labels"] for row in listed(again)] == [row["labels"] for row in listed(first)]
    assert {*again[len(again) - 1]["input_ids"].tolist()} >= {7}  # what pads is no part of what is stored
    assert str(again.report) == str(first.report) and other.report.length == 16


def test_rows_are_stored_in_32_bit():
    pieces = [np.arange(2, 2 + length, dtype=np.int32) for length in (3, 1, 2)]
    batch = fold([pieces[:2], pieces[2:]])
    assert batch.to_pydict() == {"input_ids": [[2, 3, 4, 2], [2, 3]], "lengths": [[3, 1], [2]]}
    assert [str(field.type.value_type) for field in batch.schema] == ["int32", "int32"]


def test_packing_is_deterministic_and_best_fit():
    assert best_fit_decreasing([3, 9, 5, 2, 4, 1], 10) == [[1], [2, 4, 5], [0, 3]]
    assert best_fit_decreasing([7, 6, 3], 10) == [[0, 2], [1]]
    assert best_fit_decreasing([10, 10], 10) == [[0], [1]]


def test_nothing_to_pack_is_refused(store):
    documents = store([[], []])
    with pytest.raises(UserError, match="nothing to pack"):
        pack(documents, length=4, pad_id=PAD)
    assert not list(documents.folder.glob("rows*"))


def test_ten_megabytes_take_seconds(store):
    lengths = np.random.default_rng(0).integers(20, 400, size=12_000)  # about 2.5 M tokens, 10 MB of text
    documents = store([[5] * length for length in lengths], a_batch=1000)
    start = time.process_time()
    pack(documents, length=256, pad_id=PAD)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["gpt2", "modern", "sliding"])
def test_packed_training_is_unpacked_training(store, family, attention):
    """Loss and gradients of a batch of packed rows are those of the same documents, each alone in its row."""
    torch.manual_seed(0)
    model = GPTForCausalLM(GPTConfig(**gpt_tiny.FAMILIES[family], attn_implementation=attention)).double()
    rng = random.Random(0)
    documents = [[rng.randrange(3, 96) for _ in range(rng.randint(2, 24))] for _ in range(12)]
    rows = pack(store(documents), length=32, pad_id=0)
    batch = default_data_collator(rows.__getitems__(list(range(len(rows)))))
    assert 1 < len(rows) < len(documents)

    packed = model(**batch, use_cache=False).loss
    counts = [len(document) - 1 for document in documents]
    alone = [model(ids, labels=ids, use_cache=False).loss for ids in map(torch.tensor, ([one] for one in documents))]
    unpacked = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(packed, unpacked, rtol=1e-6, atol=0)
    expected = gradients(model, unpacked)
    assert largest_difference(gradients(model, packed), expected) < 1e-6

    mixed = model(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False).loss
    assert largest_difference(gradients(model, mixed), expected) > 1e-3  # without the borders it would show
