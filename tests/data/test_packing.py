"""Packing: no token lost, documents kept apart, nothing predicted across a border."""

import random
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset

from alignment.data.packing import best_fit_decreasing, pack, tokenize_documents
from alignment.errors import UserError
from alignment.tokenization import train_tokenizer

PAD = 1


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280, model_max_length=8)


def random_documents(count, longest, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(2, 1000) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def documents_of(row):
    """The (tokens, labels) of each stretch of a row in which position_ids count up from 0."""
    starts = [*(row["position_ids"] == 0).nonzero().flatten().tolist(), len(row["position_ids"])]
    return [
        (row["input_ids"][start:end].tolist(), row["labels"][start:end].tolist()) for start, end in pairwise(starts)
    ]


def test_a_small_example():
    rows, report = pack([[10, 11, 12, 13, 14, 15], [20, 21], [30], [40, 41]], length=4, pad_id=PAD)
    assert [{name: column.tolist() for name, column in row.items()} for row in rows] == [
        {"input_ids": [10, 11, 12, 13], "position_ids": [0, 1, 2, 3], "labels": [-100, 11, 12, 13]},
        {"input_ids": [14, 15, 20, 21], "position_ids": [0, 1, 0, 1], "labels": [-100, 15, -100, 21]},
        {"input_ids": [40, 41, 30, PAD], "position_ids": [0, 1, 0, 0], "labels": [-100, 41, -100, -100]},
    ]
    assert str(report) == "packed 4 documents (11 tokens) in 5 pieces into 3 rows of 4: 91.7% full"


def test_no_token_is_lost_and_pieces_stay_whole():
    documents = random_documents(300, longest=90)
    rows, report = pack(documents, length=32, pad_id=PAD)
    pieces = Counter(
        tuple(document[start : start + 32]) for document in documents for start in range(0, len(document), 32)
    )
    found = Counter(tuple(tokens) for row in rows for tokens, _ in documents_of(row) if tokens != [PAD] * len(tokens))
    assert found == pieces
    assert report.tokens == sum(map(len, documents)) and report.pieces == sum(pieces.values())


def test_labels_are_the_tokens_except_at_borders_and_padding():
    rows, _ = pack(random_documents(50, longest=40), length=32, pad_id=PAD)
    for row in rows:
        for tokens, labels in documents_of(row):
            padding = tokens == [PAD] * len(tokens)
            assert labels == ([-100] * len(tokens) if padding else [-100, *tokens[1:]])


def test_rows_are_full_length_and_torch():
    rows, _ = pack(random_documents(50, longest=40), length=32, pad_id=PAD)
    for column in ("input_ids", "position_ids", "labels"):
        assert rows[:][column].shape == (len(rows), 32) and rows[:][column].dtype == torch.int64


def test_padding_is_little():
    _, report = pack(random_documents(2000, longest=90), length=64, pad_id=PAD)
    assert report.efficiency > 0.98


def test_packing_is_deterministic_and_best_fit():
    assert best_fit_decreasing([3, 9, 5, 2, 4, 1], 10) == [[1], [2, 4, 5], [0, 3]]
    assert best_fit_decreasing([7, 6, 3], 10) == [[0, 2], [1]]
    assert best_fit_decreasing([10, 10], 10) == [[0], [1]]


def test_nothing_to_pack_is_refused():
    with pytest.raises(UserError, match="nothing to pack"):
        pack([[], []], length=4, pad_id=PAD)


def test_ten_megabytes_take_seconds():
    lengths = np.random.default_rng(0).integers(20, 400, size=12_000)  # about 2.5 M tokens, 10 MB of text
    documents = [np.full(length, 5, dtype=np.int32) for length in lengths]
    start = time.process_time()
    pack(documents, length=256, pad_id=PAD)
    assert time.process_time() - start < 10


def test_documents_in_a_row_do_not_see_each_other():
    """A real model gives each packed document the logits that it gives the document alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    ).eval()
    documents = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14]]
    rows, _ = pack(documents, length=12, pad_id=PAD)
    row = rows[0]
    with torch.no_grad():
        packed = model(row["input_ids"][None], position_ids=row["position_ids"][None], use_cache=False).logits[0]
        alone = torch.cat([model(torch.tensor([document])).logits[0] for document in documents])
    assert len(rows) == 1
    torch.testing.assert_close(packed[:10], alone, atol=1e-5, rtol=1e-4)


def test_each_document_begins_and_ends_with_endoftext(tokenizer):
    documents = tokenize_documents(Dataset.from_dict({"text": ["the cat", "the mat sat on the cat " * 9]}), tokenizer)
    assert [tokenizer.decode(document) for document in documents] == [
        "<|endoftext|>the cat<|endoftext|>",
        "<|endoftext|>" + "the mat sat on the cat " * 9 + "<|endoftext|>",
    ]


def test_a_document_cannot_end_itself(tokenizer):
    (document,) = tokenize_documents(Dataset.from_dict({"text": ["a<|endoftext|>b<|end|>"]}), tokenizer)
    assert tokenizer.decode(document) == "<|endoftext|>a<|endoftext|>b<|end|><|endoftext|>"
    special = [index for index, token in enumerate(document) if token in tokenizer.all_special_ids]
    assert special == [0, len(document) - 1]


def test_what_a_tokenizer_adds_by_itself_is_kept_once(tokenizer):
    from tokenizers.processors import TemplateProcessing

    foreign = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280, model_max_length=64)
    foreign.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A <|endoftext|>", special_tokens=[("<|system|>", 2), ("<|endoftext|>", 0)]
    )
    (document,) = tokenize_documents(Dataset.from_dict({"text": ["the cat"]}), foreign)
    assert foreign.decode(document) == "<|system|>the cat<|endoftext|>"


def test_a_tokenizer_without_eos_is_refused():
    foreign = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280, model_max_length=64)
    foreign.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        tokenize_documents(Dataset.from_dict({"text": ["the cat"]}), foreign)
