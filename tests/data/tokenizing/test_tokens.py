"""Token ids on disk: the ids of the tokenizer's own call, made once for the same texts and tokenizer."""

import logging
import multiprocessing
import os
import signal
from itertools import chain

import pytest
from datasets import Dataset, concatenate_datasets
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from alignment.data.tokenizing.shards import cached_folder, write_shards
from alignment.data.tokenizing.tokens import (
    batched,
    in_order,
    make_encoder,
    text_key,
    tokenize,
    tokenize_documents,
    tokenizer_key,
)
from alignment.errors import UserError
from alignment.tokenization import train_tokenizer

TEXTS = ["the cat", "", "the mat sat on the cat " * 9, "a<|endoftext|>b<|end|>", " caf\u00e9 \U0001f642\n\n\ttab"]


def new_tokenizer():
    return train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=280, model_max_length=8)


@pytest.fixture
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def cache(tmp_path, caplog):
    """Tokenize into a cache of the test's own; whether it was a hit, by the log."""

    def tokenized(dataset, tokenizer):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            documents = tokenize(dataset, tokenizer, tmp_path)
        return documents, "taken from the cache" in caplog.text

    return tokenized


def rows(texts):
    return Dataset.from_dict({"text": texts})


# The ids ------------------------------------------------------------------------------------------------------------


def test_each_document_begins_and_ends_with_endoftext(cache, tokenizer):
    documents, _ = cache(rows(TEXTS[:3]), tokenizer)
    assert [tokenizer.decode(document) for document in documents] == [
        "<|endoftext|>the cat<|endoftext|>",
        "<|endoftext|>",
        "<|endoftext|>" + "the mat sat on the cat " * 9 + "<|endoftext|>",
    ]


def test_ids_are_those_of_the_tokenizers_own_call_on_disk_and_in_memory(cache, tokenizer):
    texts = TEXTS * 500
    called = tokenizer(texts, split_special_tokens=True, verbose=False)["input_ids"]
    expected = [ids if ids[-1] == 0 else [*ids, 0] for ids in called]  # 0, where a text is empty: it begins with EOS
    documents, _ = cache(rows(texts), tokenizer)
    assert [document.tolist() for document in documents] == expected
    assert documents.dataset()["input_ids"][:] == expected
    assert [document.tolist() for document in tokenize_documents(rows(texts), tokenizer)] == expected
    assert documents.documents == len(texts) and documents.tokens == sum(map(len, expected))
    assert documents.text_bytes == sum(len(text.encode()) for text in texts)


def test_a_document_cannot_end_itself(cache, tokenizer):
    ((document,), _) = cache(rows(["a<|endoftext|>b<|end|>"]), tokenizer)
    assert tokenizer.decode(document) == "<|endoftext|>a<|endoftext|>b<|end|><|endoftext|>"
    special = [index for index, token in enumerate(document) if token in tokenizer.all_special_ids]
    assert special == [0, len(document) - 1]


def test_what_a_tokenizer_adds_by_itself_is_kept_once(cache, tokenizer):
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A <|endoftext|>", special_tokens=[("<|system|>", 2), ("<|endoftext|>", 0)]
    )
    ((document,), _) = cache(rows(["the cat"]), tokenizer)
    assert tokenizer.decode(document) == "<|system|>the cat<|endoftext|>"


def test_the_tokenizers_own_settings_neither_matter_nor_change(tokenizer):
    backend = tokenizer.backend_tokenizer
    expected = make_encoder(tokenizer)(TEXTS)
    tokenizer(TEXTS, truncation=True, max_length=3, padding=True)  # these settings stay on in the backend
    truncation, padding = backend.truncation, backend.padding
    key = tokenizer_key(tokenizer)
    assert make_encoder(tokenizer)(TEXTS) == expected
    assert (tokenizer_key(tokenizer), tokenizer_key(new_tokenizer())) == (key, key)
    assert truncation and padding


def test_a_tokenizer_that_does_more_than_its_backend_is_asked_itself(tokenizer):
    class Shouting(type(tokenizer)):
        def _encode_plus(self, text, **options):
            return super()._encode_plus([one.upper() for one in text], **options)

    plain = make_encoder(tokenizer)(["the cat"])
    tokenizer.__class__ = Shouting
    assert make_encoder(tokenizer)(["the cat"]) != plain
    assert make_encoder(tokenizer)(["the cat"]) == tokenizer(["the cat"])["input_ids"]


def test_a_backend_that_gives_the_same_ids_is_used_alone(tokenizer, monkeypatch):
    expected = tokenizer(TEXTS, split_special_tokens=True)["input_ids"]
    encode = make_encoder(tokenizer)
    monkeypatch.setattr(type(tokenizer), "_encode_plus", None)
    assert encode(TEXTS) == expected


def test_a_slow_tokenizer_gives_its_own_ids_and_has_a_key(cache, tmp_path):
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer()
    documents, hit = cache(rows(TEXTS), slow)
    expected = slow(TEXTS, split_special_tokens=True)["input_ids"]  # ends each with its EOS
    assert [document.tolist() for document in documents] == expected and not hit
    assert cache(rows(TEXTS), ByT5Tokenizer())[1]
    slow.add_tokens(["cat"])
    assert not cache(rows(TEXTS), slow)[1]


def test_a_tokenizer_without_eos_is_refused(cache, tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        cache(rows(["the cat"]), tokenizer)


def test_batches_are_limited_by_their_text():
    texts = ["a" * length for length in (3, 3, 0, 9, 1, 1)]
    assert [[len(text) for text in batch] for batch in batched(texts, 5)] == [[3, 3], [0, 9], [1, 1]]


def test_batches_come_in_order_and_their_errors_come_through():
    assert list(in_order(lambda item: item * 2, range(20), threads=3)) == list(range(0, 40, 2))
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [1, 2, 0, 3], threads=2))
    drawn = []
    results = in_order(int, (drawn.append(item) or item for item in range(100)), threads=2)
    next(results)
    assert len(drawn) == 3  # no more are read than are under way


# The key ------------------------------------------------------------------------------------------------------------


def test_the_same_texts_and_tokenizer_are_a_hit_however_they_were_made(cache, tokenizer, tmp_path):
    documents, hit = cache(rows(TEXTS), tokenizer)
    assert not hit
    again = concatenate_datasets([rows(TEXTS[:2]), rows(TEXTS[2:])])
    reordered = rows(["x", *reversed(TEXTS)]).select(range(len(TEXTS), 0, -1))
    other_columns = Dataset.from_dict({"quality": ["rude"] * len(TEXTS), "text": TEXTS})
    rows(TEXTS).save_to_disk(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for same in (again, reordered, other_columns, Dataset.load_from_disk(tmp_path / "saved")):
        found, hit = cache(same, AutoTokenizer.from_pretrained(tmp_path / "tokenizer"))
        assert hit and found.folder == documents.folder


@pytest.mark.parametrize(
    "changed",
    [["the cat "], ["the", " cat"], ["the cat", ""], ["", "the cat"], []],
    ids=["a character", "where one ends", "an empty one after", "an empty one before", "none"],
)
def test_other_texts_are_a_miss(changed):
    assert text_key(rows(["the cat"])) != text_key(Dataset.from_dict({"text": changed}, features=rows(["x"]).features))


def test_the_order_of_the_texts_is_part_of_the_key():
    assert text_key(rows(["a", "b"])) != text_key(rows(["b", "a"]))


def add_a_token(tokenizer):
    tokenizer.add_tokens(["cat"])


def add_a_special_token(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})


def end_otherwise(tokenizer):
    tokenizer.eos_token = "<|end|>"


def begin_otherwise(tokenizer):
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])


@pytest.mark.parametrize("change", [add_a_token, add_a_special_token, end_otherwise, begin_otherwise])
def test_another_tokenizer_is_a_miss(cache, tokenizer, change):
    cache(rows(TEXTS), tokenizer)
    change(tokenizer)
    documents, hit = cache(rows(TEXTS), tokenizer)
    assert not hit
    expected = tokenize_documents(rows(TEXTS), tokenizer)
    assert list(chain(*documents)) == list(chain(*expected))


def test_what_has_no_say_in_the_ids_is_no_part_of_the_key(cache, tokenizer):
    cache(rows(TEXTS), tokenizer)
    tokenizer.chat_template, tokenizer.model_max_length, tokenizer.padding_side = "{{ messages }}", 99, "left"
    assert cache(rows(TEXTS), tokenizer)[1]


# The cache ----------------------------------------------------------------------------------------------------------


def test_it_lives_in_the_cache_of_datasets_unless_told_otherwise(tokenizer, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    assert tokenize(rows(TEXTS), tokenizer).folder.parent == tmp_path / "datasets/alignment"
    assert tokenize(rows(TEXTS), tokenizer, tmp_path / "own").folder.parent == tmp_path / "own/alignment"


def killed_while_writing(folder):
    def make(partial):
        (partial / "00000.arrow").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    cached_folder(folder, make)


def test_what_a_killed_process_left_is_not_taken_for_the_whole(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=killed_while_writing, args=(tmp_path / "tokens",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and list(tmp_path.iterdir())  # it did leave something
    assert not cached_folder(tmp_path / "tokens", lambda partial: (partial / "00000.arrow").write_bytes(b"whole"))
    assert (tmp_path / "tokens/00000.arrow").read_bytes() == b"whole"


def test_a_failure_leaves_nothing(cache, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("alignment.data.tokenizing.tokens.list_array", lambda rows: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cache(rows(TEXTS), tokenizer)
    assert not list((tmp_path / "alignment").iterdir())
    monkeypatch.undo()
    documents, hit = cache(rows(TEXTS), tokenizer)
    assert not hit and documents.documents == len(TEXTS)


def test_of_two_that_write_at_once_the_first_to_end_wins_and_both_go_on(tmp_path):
    def late(partial):
        (partial / "by").write_text("late")
        assert not cached_folder(tmp_path / "tokens", lambda other: (other / "by").write_text("early"))

    assert not cached_folder(tmp_path / "tokens", late)
    assert (tmp_path / "tokens/by").read_text() == "early"
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_a_full_disk_and_a_folder_that_cannot_be_are_users_errors(tmp_path):
    def fill(partial):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left") as raised:
        cached_folder(tmp_path / "tokens", fill)
    assert "HF_DATASETS_CACHE" in str(raised.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        cached_folder(tmp_path / "file/tokens", fill)


def test_many_batches_go_to_several_shards_and_come_back_in_order(cache, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("alignment.data.tokenizing.shards.SHARD_BYTES", 2_000_000)
    texts = [f"the cat {number}" + " the mat" * 300 for number in range(1200)]  # 3 batches
    documents, _ = cache(rows(texts), tokenizer)
    assert len(list(documents.folder.glob("*.arrow"))) == 2
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in documents] == texts
    assert write_shards(iter([]), tmp_path) is None and not list(tmp_path.glob("*.arrow"))
