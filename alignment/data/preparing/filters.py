"""Filters of rows: by length, exact duplicates, near duplicates, and overlap with evaluation items.

All are pure functions of texts. They remember texts by hashes that do not depend on the process, so that the same texts
give the same rows everywhere. Of several duplicates the first is kept.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from alignment.data.reading.row_formats import CONVERSATIONS, KINDS
from alignment.data.words import folded, is_unspaced, words
from alignment.tokenization.chat_format import Messages

if TYPE_CHECKING:
    from datasets import Dataset
    from datasketch import MinHash

Row = Mapping[str, Any]

SHINGLE_WORDS = 5  # length of the word sequences that near duplicates share
PERMUTATIONS = 128  # of a MinHash signature
SHORTEST_ITEM = 3  # words; shorter eval items would match everywhere
CHARACTERS_PER_WORD = 2  # in scripts without spaces, this many characters of an item count as a word
EXAMPLES = 3  # rows shown per reason
QUOTED = 80  # characters shown of a text
BATCH = 1000
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no word of a sequence is lost in 64 bits


@dataclass
class Filtered:
    """Result of a filter on rows 0, 1, 2, ...

    Attributes:
        kept: numbers of the kept rows, ascending.
        removed: number of a removed row -> reason.
        details: number of a removed row -> details, for the first rows of each reason.
        counts: reason -> number of removed rows.
    """

    kept: list[int] = field(default_factory=list)
    removed: dict[int, str] = field(default_factory=dict)
    details: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def remove(self, row: int, reason: str, detail: Callable[[], str] | None = None) -> None:
        self.removed[row] = reason
        self.counts[reason] += 1
        if detail is not None and self.counts[reason] <= EXAMPLES:
            self.details[row] = detail()


# Rows as texts ------------------------------------------------------------------------------------------------------


class Texts:
    """A sequence with a text for each row of a data set, computed on access."""

    def __init__(self, rows: Dataset, kind: str, write: Callable[[Row, str], str]):
        self.rows, self.kind, self.write = rows.select_columns(list(KINDS[kind])), kind, write

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> str:
        return self.write(self.rows[number], self.kind)

    def __iter__(self) -> Iterator[str]:
        return (self.write(row, self.kind) for row in canonical_rows(self.rows, self.kind))


def canonical_rows(rows: Dataset, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the rows with only the columns of `kind`, read in batches."""
    for batch in rows.select_columns(list(KINDS[kind])).iter(BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def whole_text(row: Row, kind: str) -> str:
    """Return a row's whole text: its text, or the contents of its messages, separated by line breaks."""
    return "\n".join(_contents(row[name] for name in KINDS[kind]))


def asked_text(row: Row, kind: str) -> str:
    """Return the part that rows of different splits must not share: the text, or the conversation before the reply."""
    return "\n".join(_contents([asked(row, kind)]))


def asked(row: Row, kind: str) -> str | Messages:
    """Return a row's text, or its messages before the reply to learn."""
    if kind == "text":
        return row["text"]
    return row["messages"][:-1] if kind == CONVERSATIONS else row["prompt"]


def _contents(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (message["content"] for message in value)


def row_key(row: Row, kind: str) -> bytes:
    """Return a 16-byte key of a row, equal for rows that differ only in white space and in the form of characters
    (composed or not, full or half width). Roles, replies and case count."""
    return _key([row[name] for name in KINDS[kind]])


def asked_key(row: Row, kind: str) -> bytes:
    """Return a 16-byte key of a row's prompt (`asked`), independent of white space and the form of characters."""
    return _key(asked(row, kind))


def _key(value: Any) -> bytes:
    return hashlib.blake2b(json.dumps(_spaced(value), sort_keys=True).encode(), digest_size=16).digest()


def _spaced(value: Any) -> Any:
    """Normalise the white space and the form of characters of all texts in a value."""
    if isinstance(value, str):
        return " ".join(folded(value).split())
    if isinstance(value, list):
        return [_spaced(item) for item in value]
    return {name: _spaced(item) for name, item in value.items()} if isinstance(value, dict) else value


# Filters ------------------------------------------------------------------------------------------------------------


def by_length(lengths: Iterable[tuple[int, int]], minimum: int | None, maximum: int | None) -> Filtered:
    """Keep rows whose lengths are within limits.

    Args:
        lengths: for each row the lengths of its shortest and longest text, in characters (`row_lengths`).
    """
    filtered = Filtered()
    for number, (shortest, longest) in enumerate(lengths):
        if minimum is not None and shortest < minimum:
            filtered.remove(number, f"shorter than {minimum} characters")
        elif maximum is not None and longest > maximum:
            filtered.remove(number, f"longer than {maximum} characters")
        else:
            filtered.kept.append(number)
    return filtered


def row_lengths(rows: Dataset, kind: str) -> Iterator[tuple[int, int]]:
    """Yield for each row its length in characters, twice; for a pair, with the shorter and with the longer reply."""
    for row in canonical_rows(rows, kind):
        sizes = _sizes(row, kind)
        yield min(sizes), max(sizes)


def characters(kind: str, row: Row) -> int:
    """Return the length of a row in characters, as `max_characters` counts them."""
    return max(_sizes(row, kind))


def _sizes(row: Row, kind: str) -> list[int]:
    """Return the length of a row in characters; for a pair, with each reply."""
    sizes = {name: sum(map(len, _contents([row[name]]))) for name in KINDS[kind]}
    sides = [sizes.pop(name) for name in ("chosen", "rejected") if name in sizes] or [0]
    return [sum(sizes.values()) + side for side in sides]


def exact_duplicates(keys: Iterable[bytes]) -> Filtered:
    """Keep rows whose key no earlier row has."""
    filtered, seen = Filtered(), set()
    for number, key in enumerate(keys):
        if key in seen:
            filtered.remove(number, "duplicate")
        else:
            seen.add(key)
            filtered.kept.append(number)
    return filtered


def without_keys(keys: Iterable[bytes], forbidden: Mapping[bytes, str]) -> Filtered:
    """Keep rows whose key is not in `forbidden`, which maps keys to reasons."""
    filtered = Filtered()
    for number, key in enumerate(keys):
        if key in forbidden:
            filtered.remove(number, forbidden[key])
        else:
            filtered.kept.append(number)
    return filtered


# Near duplicates ----------------------------------------------------------------------------------------------------


def near_duplicates(texts: Sequence[str] | Texts, threshold: float) -> Filtered:
    """Keep rows whose similarity in five-word sequences to all kept rows before them is below `threshold`."""
    filtered, index = Filtered(), NearIndex(texts, threshold)
    for number, text in enumerate(texts):
        shingles = word_shingles(text)
        sketch = index.sketch(shingles)
        twin = index.find(shingles, sketch)
        if twin is None:
            index.add(number, sketch)
            filtered.kept.append(number)
        else:
            filtered.remove(number, "near duplicate", partial(_like, texts, twin))
    return filtered


def without_near(
    texts: Sequence[str] | Texts, held_out: Sequence[str] | Texts, threshold: float, reason: str
) -> Filtered:
    """Keep rows whose similarity in five-word sequences to all held-out texts is below `threshold`."""
    filtered, index = Filtered(), NearIndex(held_out, threshold)
    for number, text in enumerate(held_out):
        index.add(number, index.sketch(word_shingles(text)))
    for number, text in enumerate(texts):
        shingles = word_shingles(text)
        twin = index.find(shingles, index.sketch(shingles))
        if twin is None:
            filtered.kept.append(number)
        else:
            filtered.remove(number, reason, partial(_like, held_out, twin))
    return filtered


def _like(texts: Sequence[str] | Texts, number: int) -> str:
    return f"like {quote(texts[number])}"


class NearIndex:
    """An index of texts by similarity: MinHash signatures in an LSH index give candidates, which are then compared.

    The texts of candidates are read again from `texts`, so that the index keeps no texts.
    """

    def __init__(self, texts: Sequence[str] | Texts, threshold: float):
        from datasketch import MinHash, MinHashLSH

        self.texts, self.threshold = texts, threshold
        # `similarity` rejects false candidates; similar texts that are no candidates are lost.
        self.index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self.empty = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)

    def sketch(self, shingles: np.ndarray) -> MinHash:
        """Return the MinHash signature of a text's shingles."""
        sketch = self.empty.copy()
        sketch.update_batch((shingles >> np.uint64(32)).tolist())
        return sketch

    def add(self, number: int, sketch: MinHash) -> None:
        """Add a text by its number and signature."""
        self.index.insert(number, sketch, check_duplication=False)

    def find(self, shingles: np.ndarray, sketch: MinHash) -> int | None:
        """Return the number of the first similar text, or None. A text without words is similar to no other."""
        if not len(shingles):
            return None
        proposed = sorted(self.index.query(sketch))
        return next((one for one in proposed if self._similar(shingles, one)), None)

    def _similar(self, shingles: np.ndarray, number: int) -> bool:
        return similarity(shingles, word_shingles(self.texts[number])) >= self.threshold


def similarity(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the Jaccard similarity of two sets, given as arrays of distinct values."""
    common = len(np.intersect1d(ours, theirs, assume_unique=True))
    return common / max(len(ours) + len(theirs) - common, 1)


def word_shingles(text: str) -> np.ndarray:
    """Return the distinct five-word sequences of a text as 64-bit hashes; a shorter text is a single sequence."""
    hashes = word_hashes(text)
    return np.unique(sequences(hashes, min(SHINGLE_WORDS, len(hashes))))


def word_hashes(text: str) -> np.ndarray:
    """Return a hash for each word of a text, regardless of case. -> [words], uint64"""
    return _hashes(words(text))


def _hashes(found: Sequence[str]) -> np.ndarray:
    return np.array([zlib.crc32(word.encode()) for word in found], dtype=np.uint64)


def sequences(words: np.ndarray, length: int) -> np.ndarray:
    """Return a hash for each run of `length` words. -> [words - length + 1], or empty; uint64"""
    of_length = dict(runs(words, length))
    return of_length.get(length, np.zeros(0, dtype=np.uint64))


def runs(words: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield for each length up to `longest` the hashes of all runs of that length. -> [words - length + 1], uint64"""
    hashes = np.zeros(len(words), dtype=np.uint64)
    for length in range(1, min(longest, len(words)) + 1):
        hashes = (hashes[: len(words) - length + 1] + words[length - 1 :] + np.uint64(1)) * MULTIPLIER
        hashes = hashes ^ (hashes >> np.uint64(29))
        yield length, hashes


# Decontamination ----------------------------------------------------------------------------------------------------


@dataclass
class Items:
    """Evaluation items to keep out of training, as hashes of word sequences.

    Attributes:
        hashes: length of a sequence -> hashes, sorted.
        owners: length of a sequence -> index into `texts` of each hash.
        texts: (suite, beginning of the item).
        unsearched: suite -> number of items that are too short to search for.
    """

    hashes: dict[int, np.ndarray]
    owners: dict[int, np.ndarray]
    texts: list[tuple[str, str]]
    unsearched: dict[str, int]


def index_items(suites: Mapping[str, Iterable[str]], ngram: int) -> Items:
    """Index every sequence of `ngram` words of every item; a shorter item is a single sequence.

    In scripts without spaces, CHARACTERS_PER_WORD characters count as a word: 13 words are 26 Chinese characters, or
    any mixture of both.
    """
    items = Items({}, {}, [], {})
    found: dict[int, dict[int, int]] = {}
    for suite, texts in suites.items():
        for text in texts:
            said = words(text)
            sizes = [1 if is_unspaced(word) else CHARACTERS_PER_WORD for word in said]
            if sum(sizes) < min(SHORTEST_ITEM, ngram) * CHARACTERS_PER_WORD:
                items.unsearched[suite] = items.unsearched.get(suite, 0) + 1
                continue
            hashes, lengths = _hashes(said), run_lengths(sizes, ngram * CHARACTERS_PER_WORD)
            for length in sorted(set(lengths)):
                for start, value in enumerate(sequences(hashes, length).tolist()):
                    if start < len(lengths) and lengths[start] == length:
                        found.setdefault(length, {}).setdefault(value, len(items.texts))
            items.texts.append((suite, quote(text)))
    for length, owner_of in sorted(found.items()):
        values = np.array(sorted(owner_of), dtype=np.uint64)
        items.hashes[length] = values
        items.owners[length] = np.array([owner_of[value] for value in values.tolist()])
    return items


def run_lengths(sizes: Sequence[int], least: int) -> list[int]:
    """Return for each start the number of words in the shortest run of total size `least`.

    Starts without such a run are omitted; if there is none, the only run has all words.

    Args:
        sizes: (words,), above 0.
    """
    ends = np.cumsum(sizes)
    begins = ends - sizes
    past = np.searchsorted(ends, begins + least)  # the word that makes the run large enough
    lengths = (past + 1 - np.arange(len(ends)))[past < len(ends)].tolist()
    return lengths or [len(ends)]


def without_items(texts: Iterable[str], items: Items) -> Filtered:
    """Keep rows that contain no item; a row with several items counts for the suite of the longest match."""
    filtered, texts, first = Filtered(), iter(texts), 0
    while batch := [word_hashes(text) for text in islice(texts, BATCH)]:
        owners = _owners(batch, items)
        for number in range(len(batch)):
            if number in owners:
                suite, item = items.texts[owners[number]]
                filtered.remove(first + number, f"holds an item of {suite}", partial("item {}".format, item))
            else:
                filtered.kept.append(first + number)
        first += len(batch)
    return filtered


def _owners(texts: Sequence[np.ndarray], items: Items) -> dict[int, int]:
    """Return number of a text that contains an item -> number of the first item among its longest matches."""
    row = np.repeat(np.arange(len(texts)), [len(words) for words in texts])
    ends = np.cumsum([len(words) for words in texts])
    owners: dict[int, int] = {}
    for length, hashes in runs(np.concatenate(texts), max(items.hashes, default=0)):
        if length not in items.hashes:
            continue
        known, start = items.hashes[length], np.arange(len(hashes))
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        hits = (known[places] == hashes) & (start + length <= ends[row[: len(hashes)]])  # within one text
        best: dict[int, int] = {}
        for number, owner in zip(row[start[hits]].tolist(), items.owners[length][places[hits]].tolist(), strict=True):
            best[number] = min(owner, best.get(number, owner))
        owners |= best
    return owners


def quote(text: str) -> str:
    """Return the beginning of a text, on one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= QUOTED else line[: QUOTED - 3] + "...")
