"""Files come back as they were written, also when they are long, of several blocks, or have changed since."""

import gzip
import json
import os
import random
from datetime import UTC, datetime

import datasets
import pyarrow
import pytest
from datasets import Dataset, DatasetDict

from alignment.data.reading import arrow_cache, files, text_files
from alignment.data.reading.files import read_files
from alignment.data.reading.sources import load_source, own_test_split
from alignment.data.reading.text_files import split_documents
from alignment.errors import UserError


def rows_of(path, **options):
    return list(load_source(str(path), kind="text", **options))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Formats ------------------------------------------------------------------------------------------------------------


def test_arrow_files_of_both_formats(tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "made": [datetime(2026, 1, 2, tzinfo=UTC), None]})
    with pyarrow.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table)
    with pyarrow.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    assert rows_of(tmp_path / "stream.arrow") == rows_of(tmp_path / "file.arrow") == table.to_pylist()
    assert rows_of(tmp_path) == table.to_pylist() * 2


def test_what_datasets_saved_to_disk(tmp_path):
    """Arrow files in folders named after the splits, beside JSON files that are no rows."""
    DatasetDict(
        {"train": Dataset.from_dict({"text": ["a", "b"]}), "test": Dataset.from_dict({"text": ["c"]})}
    ).save_to_disk(tmp_path / "saved")
    assert rows_of(tmp_path / "saved") == [{"text": "a"}, {"text": "b"}]
    assert rows_of(tmp_path / "saved", split="test") == [{"text": "c"}]
    assert own_test_split(str(tmp_path / "saved")) == "test"


def test_folders_above_name_no_split(tmp_path):
    folder = tmp_path / "test" / "rows"
    folder.mkdir(parents=True)
    write_lines(folder / "a.jsonl", [{"text": "a"}])
    assert rows_of(folder) == [{"text": "a"}]


def test_the_card_of_a_data_set_is_no_row(tmp_path):
    (tmp_path / "README.md").write_text("# About these rows")
    write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    assert rows_of(tmp_path) == [{"text": "a"}]


def test_markdown_is_text(tmp_path):
    (tmp_path / "a.md").write_text("# One\n\nTwo.\n")
    (tmp_path / "b.txt").write_text("Three.")
    assert rows_of(tmp_path) == [{"text": "# One\n\nTwo."}, {"text": "Three."}]


def test_parquet_files_with_different_columns(tmp_path):
    Dataset.from_dict({"text": ["a"], "level": [1]}).to_parquet(tmp_path / "a.parquet")
    Dataset.from_dict({"text": ["b"], "score": [0.5]}).to_parquet(tmp_path / "b.parquet")
    assert rows_of(tmp_path) == [
        {"text": "a", "level": 1, "score": None},
        {"text": "b", "level": None, "score": 0.5},
    ]


def test_csv_files_with_different_columns(tmp_path):
    (tmp_path / "a.csv").write_text("text,level\na,1\n")
    (tmp_path / "b.csv").write_text("score,text\n,b\n")
    assert rows_of(tmp_path) == [
        {"text": "a", "level": "1", "score": None},
        {"text": "b", "level": None, "score": ""},
    ]


def test_long_values_of_csv(tmp_path):
    (tmp_path / "a.csv").write_text("text,level\n" + "a" * 200_000 + ',"1\n2"\n')
    assert rows_of(tmp_path / "a.csv") == [{"text": "a" * 200_000, "level": "1\n2"}]


# Columns of JSON ----------------------------------------------------------------------------------------------------

COLUMNS = {
    "objects with different keys": [{"a": 1}, {"b": [1, {"c": None}]}, {}, None],
    "text and numbers": ["7", 7, 7.5, True, None, "x", "null", ""],
    "lists of both": [["7"], [7], [], None],
    "truth and numbers": [True, 1, 0, None],
    "whole and broken numbers": [1, 2.5, None],
    "empty lists": [[], ["a"], None],
    "large numbers": [2**63 + 1, 1, -(2**62)],
    "text that is hard to quote": ['"\\', "\u2028\x85\x1f", "\U0001f600é", "\x00"],
    "the same inside objects": [{"é": '"\\\u2028\U0001f600\x7f'}, {"a": "</x>"}],
}


@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_json_columns_come_back_as_they_were(tmp_path, monkeypatch, values, batch):
    """Whatever batch their types show up in."""
    monkeypatch.setattr(arrow_cache, "BATCH_ROWS", batch)
    rows = [{"id": number, "value": value} for number, value in enumerate(values)]
    found = rows_of(write_lines(tmp_path / "a.jsonl", rows))
    assert found == rows
    # Equal values of different types (1, 1.0, True) too; whole numbers beside broken ones become broken.
    if values != COLUMNS["whole and broken numbers"]:
        assert [repr(row["value"]) for row in found] == [repr(value) for value in values]


# Long files ---------------------------------------------------------------------------------------------------------


def random_text(seed):
    """Lines, blank lines and white space of all lengths."""
    draw = random.Random(seed)
    pieces = ["a", "word ", "\n", "\n\n", "\n\n\n", "  ", "long line " * 8, "line\n" * 9, "\x0b", "\u2028", "\t\n"]
    return "".join(draw.choice(pieces) for _ in range(draw.randint(0, 120)))


def split_at_once(text, characters):
    """`split_documents` on a text as a whole, as plainly as it can be said."""
    import re

    units = []
    for paragraph in re.split(r"(?<=\n\n)(?=[^\n])", text):
        if paragraph.strip():
            units += [paragraph] if len(paragraph) <= characters else paragraph.splitlines(keepends=True)
    documents = [""]
    for unit in units:
        if documents[-1] and len(documents[-1]) + len(unit) > characters:
            documents.append("")
        documents[-1] += unit
    return [document.strip("\n") for document in documents if document.strip()]


def test_blocks_make_no_difference_to_documents():
    for seed in range(300):
        text, size = random_text(seed), random.Random(seed).randint(1, 40)
        blocks = [text[start : start + size] for start in range(0, len(text), size)]
        expected = split_at_once(text, 60)
        assert split_documents(text, 60) == expected, seed
        assert list(text_files._documents(blocks, 60)) == expected, seed


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "lines.txt", "a.jsonl"])
def test_a_long_file_is_not_held_in_memory(tmp_path, name):
    """Of 20 MB, no more than a few batches at a time."""
    import tracemalloc

    paragraph = "word " * 200 + ("\n" if name == "lines.txt" else "\n\n")
    count = 20 * 2**20 // len(paragraph)
    if name == "a.jsonl":
        write_lines(tmp_path / name, [{"text": paragraph}] * count)
    elif name.endswith(".txt"):
        (tmp_path / name).write_text(paragraph * count)
    else:
        (tmp_path / name).write_bytes(gzip.compress((paragraph * count).encode()))
    tracemalloc.start()
    rows = read_files([tmp_path / name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == (count if name == "a.jsonl" else -(-count // 3))
    assert rows.cache_files and peak < 12 * 2**20


# The cache ----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    read = []
    reader = files.READERS[".jsonl"]
    monkeypatch.setitem(files.READERS, ".jsonl", lambda names: read.append(names) or reader(names))
    assert rows_of(path) == rows_of(path) == [{"text": "a"}]
    assert len(read) == 1
    state = path.stat()
    write_lines(path, [{"text": "b"}])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # of the same size, and as if it were as old
    assert rows_of(path) == [{"text": "b"}]
    copy = write_lines(tmp_path / "b.jsonl", [{"text": "c"}])
    assert rows_of(tmp_path) == [{"text": "b"}, {"text": "c"}]
    copy.unlink()
    assert rows_of(tmp_path) == [{"text": "b"}]
    assert len(read) == 3


def test_a_reading_that_failed_leaves_nothing(tmp_path, datasets_cache):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    before = set(datasets_cache.rglob("*.arrow"))
    with pytest.raises(UserError, match="line 2"):
        rows_of(path)
    assert set(datasets_cache.rglob("*.arrow")) == before


def test_rows_with_one_long_text_each(tmp_path, monkeypatch):
    """They are written one by one, not kept until there are a thousand."""
    monkeypatch.setattr(arrow_cache, "BATCH_BYTES", 10)
    written = []
    write = datasets.arrow_writer.ArrowWriter.write_rows_on_file

    def counted(writer):
        written.append(len(writer.current_rows))
        write(writer)

    monkeypatch.setattr(datasets.arrow_writer.ArrowWriter, "write_rows_on_file", counted)
    rows = [{"text": str(number) * 20} for number in range(5)]
    assert rows_of(write_lines(tmp_path / "a.jsonl", rows)) == rows
    assert max(written) == 1


# Errors -------------------------------------------------------------------------------------------------------------

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
LATIN = "caf\u00e9".encode("latin-1")
ERRORS = [
    ("a.jsonl", POINTER.encode(), r"a.jsonl is a pointer to the data(?s:.*)git lfs pull"),
    ("a.parquet", POINTER.encode(), r"a.parquet is a pointer to the data"),
    ("a.txt.gz", POINTER.encode(), r"a.txt.gz is a pointer to the data"),
    (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "' + LATIN + b'"}\n',
        r"a.jsonl is not UTF-8 at line 2(?s:.*)byte 0xe9 after",
    ),
    ("a.json", b'[{"text": "a"},\n {"text": "' + LATIN + b'"}]', r"a.json is not UTF-8 at line 2"),
    ("a.txt", b"a\n\nb\n" + LATIN, r"a.txt is not UTF-8 at line 4"),
    ("a.csv", b"text\na\n" + LATIN, r"a.csv is not UTF-8 at line 3"),
    ("a.txt.gz", gzip.compress(b"a\n" + LATIN, mtime=0), r"a.txt.gz is not UTF-8 at line 2"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-12], r"a.jsonl.gz is truncated"),
    ("a.txt.gz", gzip.compress(random.Random(0).randbytes(99).hex().encode(), mtime=0)[:-30], r"a.txt.gz is truncated"),
    ("a.csv.gz", gzip.compress(b"text\na\n", mtime=0)[:-9], r"a.csv.gz is truncated"),
    ("a.parquet.gz", b"", r"Cannot read .*a.parquet.gz(?s:.*)gunzip"),
    ("a.csv", b"a,b\n1,2\n3\n", r"a.csv: line 3 and the header differ(?s:.*)expected: 2: a, b"),
    ("a.csv", b"a,b\n1,2\n\n3,4,5\n", r"a.csv: line 4 and the header differ"),
    ("a.csv", b"a,b\n1,2,3\n", r"a.csv: line 2 and the header differ"),
    ("a.csv", b'a,b\n1,"2"3\n', r"Cannot read .*a.csv at line 2"),
    ("a.csv", b"a,a\n1,2\n", r"a header line with distinct names"),
    ("a.arrow", b"text", r"Cannot read .*a.arrow(?s:.*)expected: Arrow files"),
    ("a.json", b'{\n  "data": [1,\n}', r"a.json is not valid JSON at line 3"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d\\ud83d"}\n', r"half a character at line 2"),
    ("a.jsonl", b"", "is empty"),
    ("a.json", b"[]", "is empty"),
    ("a.csv", b"text\n", "is empty"),
]


@pytest.mark.parametrize(("name", "data", "message"), ERRORS)
def test_files_that_cannot_be_read(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path / name)


def test_characters_of_two_escapes_are_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n')
    assert rows_of(tmp_path / "a.jsonl") == [{"text": "\U0001f600"}]
