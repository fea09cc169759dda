"""Bits per byte of the pretrain stage: the definition of the suites `text` and `tinyworld_bpb`."""

import math
import random

import pytest
import torch
from datasets import Dataset
from gpt_tiny import MODERN, WORDS, build
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from alignment.data.tokenizing.scored import ScoredTexts, scoring_windows
from alignment.data.tokenizing.tokens import added_around, tokenize
from alignment.trainers.pretrain.trainer import PretrainConfig, PretrainTrainer
from eval.harness.lm import CausalLM

LENGTH = 16


def letters(bos: str | None, adds: str) -> PreTrainedTokenizerFast:
    """A tokenizer of letters whose template adds nothing, a BOS token, or a BOS and an EOS token."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = {"nothing": "$A", "bos": "[BOS] $A", "bos and eos": "[BOS] $A [EOS]"}[adds]
    special = [("[BOS]", 1), ("[EOS]", 2)]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", bos_token=bos, eos_token="[EOS]", unk_token="[UNK]"
    )


def ragged_texts() -> list[str]:
    """Texts of 1 to 50 tokens: several to a row of 16, some exactly a row or two, some longer."""
    rng = random.Random(0)
    sizes = [1, 2, 3, 3, 4, 5, 7, 15, 16, 17, 31, 32, 33, 50]
    return [" ".join(rng.choices(WORDS[4:], k=size)) for size in sizes]


TOKENIZERS = pytest.mark.parametrize(
    ("bos", "adds", "around"), [(None, "nothing", (0, 1)), ("[BOS]", "bos", (1, 1)), ("[BOS]", "bos and eos", (1, 1))]
)


@TOKENIZERS
@pytest.mark.parametrize("chunk", [None, 11])
def test_the_stages_bits_per_byte_equal_the_suites(bos, adds, around, chunk, tmp_path):
    tokenizer, texts = letters(bos, adds), ragged_texts()
    assert added_around(tokenizer) == around
    model = build(MODERN, max_position_embeddings=LENGTH)
    documents = tokenize(Dataset.from_dict({"text": texts}), tokenizer, tmp_path)
    rows = ScoredTexts(documents, tokenizer, LENGTH, pad_id=0)
    assert len(rows) < len(rows.pieces) > len(texts)  # several texts in a row, and texts longer than a row
    args = PretrainConfig(
        str(tmp_path), use_cpu=True, report_to="none", per_device_eval_batch_size=3, loss_chunk_size=chunk
    )
    about = {"eval_dataset": rows, "eval_bytes": documents.text_bytes, "eval_text": rows}
    found = PretrainTrainer(model, args, **about).evaluate()["eval_bits_per_byte"]

    suite = CausalLM(model.eval(), letters(bos, adds), batch_size=4)
    request = type("Request", (), {"__init__": lambda self, text: setattr(self, "args", (text,))})
    nats = -sum(suite.loglikelihood_rolling([request(text) for text in texts]))
    assert found == pytest.approx(nats / math.log(2) / sum(len(text.encode()) for text in texts), rel=1e-5)


@TOKENIZERS
def test_each_token_of_a_text_is_scored_exactly_once(bos, adds, around, tmp_path):
    tokenizer, texts = letters(bos, adds), ragged_texts()
    documents = tokenize(Dataset.from_dict({"text": texts}), tokenizer, tmp_path)
    rows = ScoredTexts(documents, tokenizer, LENGTH, pad_id=0)
    targets = torch.cat([row["shift_labels"] for row in rows.__getitems__(list(range(len(rows))))])
    expected = tokenizer(" ".join(texts), add_special_tokens=False)["input_ids"]
    assert sorted(targets[targets != -100].tolist()) == sorted(expected)


def test_windows_cover_a_text_without_gap_or_overlap():
    for size in range(40):
        windows = scoring_windows(size, 8)
        assert [place for _, end, first in windows for place in range(first, end)] == list(range(size))
        assert all(end - start == min(8, size) for start, end, _ in windows)
