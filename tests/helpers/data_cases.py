"""Rows and token ids by every way that they can be read: at once, in batches of any size, or as a stream."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import ragged
from datasets import Dataset, IterableDataset

from alignment.data.preparing import filters
from alignment.data.reading import arrow_cache
from alignment.data.reading.formats import convert
from alignment.data.reading.sources import load_source
from alignment.data.tokenizing import packing, tokens
from alignment.data.tokenizing.packing import PackedRows
from alignment.data.tokenizing.tokens import TokenizedDocuments
from alignment.data.tokenizing.windows import TokenWindows

TEXTS = [f"{prompt} {reply} {'zebra ' * (place % 3 * 7)}" for place, (prompt, reply, _) in enumerate(ragged.TALKS)]
TEXTS += ["", "x", "é 🙂", "Kite. " * 40]


def tokenized(texts: list[str], words, folder: Path, monkeypatch, characters: int, read: int) -> TokenizedDocuments:
    """Documents' ids, with so many characters a batch and so many texts a read."""
    monkeypatch.setattr(tokens, "batched", lambda texts: tokens.grouped(texts, len, characters))
    monkeypatch.setattr(tokens, "TEXTS_A_READ", read)
    folder.mkdir(parents=True)
    return tokens.write_tokens(tokens.texts_of(Dataset.from_dict({"text": texts})), words, folder)


def alone(texts: list[str], words) -> list[list[int]]:
    """Each document's ids by the tokenizer's own call, ended once."""
    rows = [words(text)["input_ids"] for text in texts]
    return [row if row[-1:] == [words.eos_token_id] else [*row, words.eos_token_id] for row in rows]


def check_tokenization(name: str, characters: int, read: int, folder: Path, monkeypatch) -> None:
    """A document's ids are those of the document alone, in their order, however many are encoded together."""
    words = ragged.tokenizer(name)
    found = tokenized(TEXTS, words, folder / "tokens", monkeypatch, characters, read)
    assert [ids.tolist() for ids in found] == alone(TEXTS, words)
    assert (found.documents, found.tokens) == (len(TEXTS), sum(map(len, alone(TEXTS, words))))


def check_packing(name: str, length: int, window: int, folder: Path, monkeypatch) -> None:
    """Packed rows hold every document, or pieces of it of a row's length, each with its own positions and labels."""
    words = ragged.tokenizer(name)
    documents = tokenized(TEXTS, words, folder / "tokens", monkeypatch, 50, 3)
    (folder / "rows").mkdir()
    packing.write_rows(documents, length, window, folder / "rows")
    found = []
    for row in PackedRows(folder / "rows", words.pad_token_id):
        starts = [*(row["position_ids"] == 0).nonzero()[:, 0].tolist(), length]
        for start, end in pairwise(starts):
            ids, labels = row["input_ids"][start:end].tolist(), row["labels"][start:end].tolist()
            assert row["position_ids"][start:end].tolist() == list(range(end - start)), "positions"
            if labels[1:] != [-100] * (len(ids) - 1):
                assert labels == [-100, *ids[1:]], "labels"
                found.append(ids)
    pieces = [row[at : at + length] for row in alone(TEXTS, words) for at in range(0, len(row), length)]
    assert sorted(found) == sorted(piece for piece in pieces if len(piece) > 1), "documents"


def check_windows(characters: int, folder: Path, monkeypatch) -> None:
    """Windows are cut from the text end to end, wherever the shards of its ids end."""
    words = ragged.tokenizer("ours")
    documents = tokenized(TEXTS, words, folder / "tokens", monkeypatch, characters, 2)
    whole = [token for row in alone(TEXTS, words) for token in row]
    rows = TokenWindows(documents, 16, 5)
    wanted = [whole[start : start + 17] for start in range(0, len(whole) - 16, 5)]
    assert [row["input_ids"].tolist() for row in rows] == [row[:-1] for row in wanted]
    assert [row["shift_labels"].tolist() for row in rows] == [row[1:] for row in wanted]
    batch = rows.__getitems__([3, 0, len(rows) - 1])
    assert [row["input_ids"].tolist() for row in batch] == [wanted[place][:-1] for place in (3, 0, len(rows) - 1)]


def conversations(count: int = 23) -> list[dict]:
    return [
        {"messages": ragged.ask(f"Say {'zebra ' * (n % 5)}{n}.") + ragged.say(f"{'kite ' * (n % 4)}{n}")}
        for n in range(count)
    ]


def check_stream(batch_rows: int, limit: int | None, monkeypatch) -> None:
    """A data set of the hub that is streamed gives the rows of the one that is downloaded."""
    rows, name = conversations(), f"some/data-{batch_rows}-{limit}"

    def load(name, config, split=None, streaming=False, **options):
        return IterableDataset.from_generator(lambda: iter(rows)) if streaming else Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub, "dataset_info", lambda name: SimpleNamespace(sha="abc"))
    monkeypatch.setattr(arrow_cache, "BATCH_ROWS", batch_rows)
    whole = load_source(name, kind="sft", max_rows=limit)
    streamed = load_source(name, kind="sft", streaming=True, max_rows=limit)
    assert streamed.to_list() == whole.to_list() and len(whole) == (limit or len(rows))
    assert convert(streamed, "sft")[0].to_list() == convert(whole, "sft")[0].to_list()


def check_filters(order: list[int], monkeypatch) -> None:
    """Whether a text is too long, or holds an item of an eval suite, is a matter of that text alone."""
    texts = [" ".join(row["messages"][0]["content"] for row in conversations()[n : n + 1 + n % 4]) for n in range(20)]
    texts[4] += " the old mill by the river had a grey bird that sat on a mat all day long and saw the dog"
    texts[11] = f"before {texts[4]}"
    across = " ".join([*texts[0].split()[-6:], *texts[1].split()[:6]])  # in neither of the two
    items = filters.index_items({"suite": [texts[4][-80:], across]}, 8)
    monkeypatch.setattr(filters, "BATCH", 3)

    def removed(rows: list[str]) -> set[str]:
        long = filters.by_length([(len(text), len(text)) for text in rows], None, 60)
        leaked = filters.without_items(rows, items)
        return {rows[place] for one in (long, leaked) for place in one.removed}

    wanted = {text for text in texts if removed([text])}
    assert wanted and removed([texts[place] for place in order]) == wanted
