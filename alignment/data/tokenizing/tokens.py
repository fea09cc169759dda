"""Tokenization of documents into memory-mapped Arrow shards, cached by texts and tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignment.data.tokenizing.grouping import grouped
from alignment.data.tokenizing.shards import cache_root, cached_folder, lists_of, map_shards, read_shards, write_shards
from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TEXTS_A_READ = 100
# Characters of a batch to tokenize, which limits its memory to about 100 MB: encodings take 90 bytes per token.
BATCH_CHARACTERS = 2**20
FORMAT = 1  # of the shards; part of the key
SUMMARY = "tokens.json"
# Texts that tokenizers may treat specially, to test whether the backend alone gives the same ids.
PROBES = ("", " ", "A b,  c\n\n\td's 1234", "\u00e9 \u4f60\u597d \U0001f642", " leading and trailing ")

Ids = list[list[int]]
Encoder = Callable[[list[str]], Ids]


@dataclass(frozen=True)
class TokenizedDocuments:
    """Token ids of documents in the shards of a folder, and the size of their text in UTF-8."""

    folder: Path
    documents: int
    tokens: int
    text_bytes: int

    @classmethod
    def read(cls, folder: Path) -> TokenizedDocuments:
        """Read the summary of a folder."""
        return cls(folder, **json.loads((folder / SUMMARY).read_text(encoding="utf-8")))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each document's ids, int32, as views of memory-mapped files, which live as long as the views."""
        for batch in read_shards(self.folder):
            yield from lists_of(batch.column("input_ids"))

    def dataset(self) -> Dataset:
        """Return the documents as memory-mapped rows {input_ids}."""
        return map_shards(self.folder)

    def __str__(self) -> str:
        megabytes = self.text_bytes / 1e6
        return f"{self.documents} documents, {self.tokens} tokens of {megabytes:.1f} MB of text"


def tokenize(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, cache_dir: str | Path | None = None
) -> TokenizedDocuments:
    """Tokenize each document's `text`, or take the ids from the cache.

    The cache key is the texts in their order and everything in the tokenizer that affects ids, which excludes its chat
    template. (datasets' fingerprints are no such key: regenerated rows get new ones, and a file changed in place may
    keep its own.)

    Args:
        cache_dir: folder for the ids; default: datasets' cache.
    """
    require_eos(tokenizer)
    key = digest(FORMAT, text_key(dataset), tokenizer_key(tokenizer))
    folder = cache_root(cache_dir) / f"tokens-{key}"
    cached = cached_folder(folder, lambda partial: write_tokens(texts_of(dataset), tokenizer, partial))
    tokenized = TokenizedDocuments.read(folder)
    logger.info("%s %s: %s", "token ids taken from the cache" if cached else "tokenized into", folder, tokenized)
    return tokenized


def write_tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, folder: Path) -> TokenizedDocuments:
    """Tokenize texts into shards in `folder`, with a few batches in memory."""
    import pyarrow as pa

    encode = ended(make_encoder(tokenizer), require_eos(tokenizer))
    counts = {"documents": 0, "tokens": 0, "text_bytes": 0}

    def encoded(texts: list[str]) -> tuple[pa.RecordBatch, int]:
        return pa.record_batch({"input_ids": list_array(encode(texts))}), sum(len(text.encode()) for text in texts)

    def counted() -> Iterator[pa.RecordBatch]:
        # A tokenizer in Python has one thread. With two batches at once, no core is idle while ids become arrays.
        for batch, text_bytes in in_order(encoded, batched(texts), threads=2 if tokenizer.is_fast else 1):
            counts["documents"] += len(batch)
            counts["tokens"] += len(batch.column("input_ids").values)
            counts["text_bytes"] += text_bytes
            yield batch

    write_shards(counted(), folder)
    (folder / SUMMARY).write_text(json.dumps(counts) + "\n", encoding="utf-8")
    return TokenizedDocuments(folder, **counts)


def tokenize_documents(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Tokenize a few documents in memory, with the same ids as `tokenize`."""
    encode = ended(make_encoder(tokenizer), require_eos(tokenizer))
    return [np.asarray(ids, dtype=np.int32) for batch in batched(texts_of(dataset)) for ids in encode(batch)]


def texts_of(dataset: Dataset) -> Iterator[str]:
    """Yield the texts of a data set, read in batches."""
    for rows in dataset.select_columns(["text"]).iter(TEXTS_A_READ):
        yield from rows["text"]


def batched(texts: Iterable[str], characters: int = BATCH_CHARACTERS) -> Iterator[list[str]]:
    """Group texts into lists with a total of at least `characters`; the last may have fewer."""
    return grouped(texts, len, characters)


# Encoding -----------------------------------------------------------------------------------------------------------


def require_eos(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the EOS token, which has to separate documents."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            "The tokenizer has no EOS token to separate documents.",
            expected="a tokenizer with an eos_token",
            fix="set tokenizer.eos_token and save the tokenizer again",
        )
    return tokenizer.eos_token_id


def make_encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """Return a function from texts to ids, with the ids of the tokenizer's own call, including a BOS token it adds.

    Text in a document that looks like a special token, such as `<|end|>`, is encoded as text.
    """

    def call(texts: list[str]) -> Ids:
        # verbose=False: no warning about documents longer than the context, which packing splits.
        return tokenizer(texts, split_special_tokens=True, return_attention_mask=False, verbose=False)["input_ids"]

    if not tokenizer.is_fast:
        return call
    from tokenizers import Tokenizer

    # A copy, since the next lines change its settings.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True

    def encode(texts: list[str]) -> Ids:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts)]

    probes = [*PROBES, "".join(("a", *tokenizer.all_special_tokens, " b"))]
    return encode if encode(probes) == call(probes) else call


def ended(encode: Encoder, eos: int) -> Encoder:
    """Return an encoder that ends each text with exactly one EOS token, which some tokenizers (T5's) already add."""

    def encode_and_end(texts: list[str]) -> Ids:
        rows = encode(texts)
        for ids in rows:
            if not ids or ids[-1] != eos:
                ids.append(eos)
        return rows

    return encode_and_end


def added_around(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the number of ids that `tokenize` adds before and after a text, such as a BOS and the EOS token."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    (ids,) = ended(make_encoder(tokenizer), require_eos(tokenizer))(["a"])
    starts = range(len(ids) - len(text) + 1)
    before = next((start for start in starts if ids[start : start + len(text)] == text), 0)
    return before, len(ids) - before - len(text)


def list_array(rows: Sequence[Sequence[int]]) -> pa.ListArray:
    """Convert rows of ids to an Arrow array of lists of int32."""
    import pyarrow as pa

    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def in_order(function: Callable, items: Iterable, threads: int) -> Iterator:
    """Yield function(item) for each item, in order, computed in threads, with at most `threads` + 1 items pending."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# Keys ---------------------------------------------------------------------------------------------------------------


def digest(*parts: object) -> str:
    """Return a digest of JSON values."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def text_key(dataset: Dataset) -> str:
    """Return a digest of the texts in their order, independent of their storage."""
    import pyarrow as pa
    import pyarrow.compute as pc

    seen = hashlib.blake2b(digest_size=16)
    for table in dataset.select_columns(["text"]).with_format("arrow").iter(TEXTS_A_READ):
        column = table["text"].cast(pa.large_binary())
        seen.update(pc.binary_length(column).to_numpy().tobytes())
        for chunk in column.chunks:
            _, offsets, texts = chunk.buffers()
            if texts is not None:  # an array of empty texts has no buffer
                ends = np.frombuffer(offsets, dtype=np.int64)[[chunk.offset, chunk.offset + len(chunk)]]
                seen.update(memoryview(texts)[ends[0] : ends[1]])
    return seen.hexdigest()


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of what determines ids: a tokenizer's serialised state, EOS token and version of its code."""
    import tokenizers
    import transformers

    kind, eos = type(tokenizer).__name__, tokenizer.eos_token_id
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        # Settings of the last call; documents are neither truncated nor padded.
        del state["truncation"], state["padding"]
        return digest(kind, eos, tokenizers.__version__, state)
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(Path(folder, Path(name).name) for name in tokenizer.save_pretrained(folder))
        contents = [(file.name, file.read_bytes().hex()) for file in files if "chat_template" not in file.name]
    return digest(kind, eos, transformers.__version__, contents)
