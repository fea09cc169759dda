"""Names of sources that are misspelt or of another kind, caches that cannot be written, and sources that differ."""

import errno
import json
import os

import datasets
import pytest

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import prepare
from alignment.data.reading import json_files, opening
from alignment.data.reading.sources import is_local, load_source
from alignment.errors import UserError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


NAMES = {
    "tinywrld:": r"No source is called tinywrld(?s:.*)did you mean 'tinyworld:'\?",
    "tinywrld:sft": r"No source is called tinywrld(?s:.*)did you mean 'tinyworld:sft'\?",
    "TinyWorld:sft?people=3": r"did you mean 'tinyworld:sft\?people=3'\?",
    "python-sourcs:numpy": r"did you mean 'python-sources:numpy'\?",
    "python_sources:numpy": r"did you mean 'python-sources:numpy'\?",
    "https://example.org/rows.jsonl": r"is an address(?s:.*)download",
    "https://huggingface.co/datasets/some/data": r"is an address(?s:.*)dataset_name: some/data",
    "hf://datasets/some/data": r"is an address(?s:.*)dataset_name: some/data",
    "s3://bucket/rows.jsonl": r"is an address(?s:.*)download",
    "some/name:train": r"No source is called(?s:.*)the id of a data set on the hub",
    "some/data/rows": r"There is no file some/data/rows",
    "some//data": r"There is no file",
    "two words": r"There is no file two words",
    "a.jsonl,b.jsonl": r"There is no file a\.jsonl,b\.jsonl(?s:.*)datasets:",
    "tinywrld": r"Cannot load the data set tinywrld from the hub(?s:.*)did you mean 'tinyworld'\?",
    "~nobody-of-this-name/a.jsonl": r"There is no file ~nobody-of-this-name",
    "/dev/null": r"/dev/null is not a file(?s:.*)device",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("streaming", [False, True])
def test_names_that_are_no_source(name, streaming, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=NAMES[name]):
        load_source(name, kind="sft", streaming=streaming)


def test_a_pipe_is_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl is not a file(?s:.*)pipe"):
        load_source(str(tmp_path / "a.jsonl"), kind="sft")


def test_an_empty_name():
    with pytest.raises(UserError, match="dataset_name is empty"):
        DataArguments("")
    with pytest.raises(UserError, match="name is empty"):
        DataArguments(datasets=[{"name": " "}])


def test_an_entry_that_is_no_mapping():
    with pytest.raises(UserError, match=r"datasets: a source is not a mapping(?s:.*)name: a\.jsonl"):
        DataArguments(datasets=["a.jsonl"])


def test_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", [{"text": "a"}])
    assert is_local("~/a.jsonl") and load_source("~/a.jsonl", kind="text").to_list() == [{"text": "a"}]


def test_configs_are_folders(tmp_path):
    for config in ("main", "other"):
        (tmp_path / config).mkdir()
        write(tmp_path / config / "train-00000-of-00001.jsonl", [{"text": config}])
    assert load_source(str(tmp_path), config="main", kind="text").to_list() == [{"text": "main"}]
    with pytest.raises(UserError, match="has no config third"):
        load_source(str(tmp_path), config="third", kind="text")


# Files that were left out -------------------------------------------------------------------------------------------


def test_files_left_out_are_named(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": "a"}])
    write(tmp_path / "test.jsonl", [{"text": "b"}])
    for name in ("extra.jsonl", ".hidden.jsonl", "old.jsonl.zst"):
        write(tmp_path / name, [{"text": name}])
    prepared = prepare(DataArguments(str(tmp_path)), "text", seed=0)
    assert prepared.splits["train"]["text"][:] == ["a"]
    (note,) = [note for note in prepared.report.notes if "left out" in note]
    assert all(name in note for name in ("extra.jsonl", ".hidden.jsonl", "old.jsonl.zst"))
    assert "train.jsonl" not in note and "test.jsonl" not in note


def test_nothing_left_out_nothing_said(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": "a"}])
    (tmp_path / "README.md").write_text("# Card")
    (tmp_path / ".gitattributes").write_text("")
    notes = prepare(DataArguments(str(tmp_path), eval_share=0), "text", seed=0).report.notes
    assert not [note for note in notes if "left out" in note]


# Sources that differ in columns that nobody reads -------------------------------------------------------------------

IDS = {
    "texts": ["a", "7"],
    "numbers": [1, 2],
    "fractions": [0.5, 1.5],
    "nothing": [None, None],
    "lists": [[1], [2]],
    "objects": [{"a": 1}, {"b": "c"}],
    "truths": [True, False],
}


@pytest.mark.parametrize(
    ("keep", "other"),
    [pytest.param(keep, name) for keep in ((), None) for name in IDS if name != "texts"],
)
def test_sources_whose_unused_columns_differ(tmp_path, keep, other):
    names = ("texts", other)
    sources = [
        write(tmp_path / f"{name}.jsonl", [{"text": f"{name} {value}", "id": value} for value in IDS[name]])
        for name in names
    ]
    args = DataArguments(datasets=[{"name": name} for name in sources], eval_share=0)
    rows = prepare(args, "text", seed=0, keep=keep).splits["train"].to_list()
    assert sorted(row["text"] for row in rows) == sorted(f"{name} {value}" for name in names for value in IDS[name])
    if keep is None:
        expected = {f"{name} {value}": value for name in names for value in IDS[name]}
        assert {row["text"]: row["id"] for row in rows} == expected


def test_splits_whose_unused_columns_differ(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": "a", "id": 1}])
    write(tmp_path / "test.jsonl", [{"text": "b", "id": "x", "more": {}}])
    splits = prepare(DataArguments(str(tmp_path)), "text", seed=0, keep=None).splits
    assert [splits[name]["id"][:] for name in ("train", "validation")] == [[1], ["x"]]


def test_files_of_one_split_whose_columns_differ(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"text": ["a"], "id": [1], "meta": [{"x": 1}]}).to_parquet(tmp_path / "a.parquet")
    Dataset.from_dict({"text": ["b"], "id": ["x"], "meta": ["y"]}).to_parquet(tmp_path / "b.parquet")
    assert load_source(str(tmp_path), kind="text").to_list() == [
        {"text": "a", "id": 1, "meta": {"x": 1}},
        {"text": "b", "id": "x", "meta": "y"},
    ]


# Folders and files that cannot be read or written -------------------------------------------------------------------


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """A cache that cannot be made, for root neither: its parent is a file."""
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "python-sources:ruamel.yaml"])
def test_a_cache_that_cannot_be_written(tmp_path, no_cache, name):
    path = tmp_path / name
    if "sources" not in name:
        path.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(UserError, match=rf"{no_cache}(?s:.*)HF_DATASETS_CACHE"):
        load_source(name if "sources" in name else str(path), kind="text")


def test_a_cache_that_is_full(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = write(tmp_path / "a.jsonl", [{"text": "a"}])
    monkeypatch.setattr(datasets.arrow_writer.ArrowWriter, "write_rows_on_file", full)
    monkeypatch.setattr(datasets.arrow_writer.ArrowWriter, "write_table", full)
    with pytest.raises(UserError, match=r"(?s)No space left.*HF_DATASETS_CACHE"):
        load_source(path, kind="text")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, name, number):
    """Root may read all files, so that opening them fails here instead."""
    path = tmp_path / name
    path.write_text("text\n")
    opened = type(path).open

    def refused(file, *args, **options):
        if file == path:
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, *args, **options)

    monkeypatch.setattr(type(path), "open", refused)
    with pytest.raises(UserError, match=rf"Cannot read .*{name}(?s:.*){os.strerror(number)}"):
        load_source(str(path), kind="text")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    write(tmp_path / "a.jsonl", [{"text": "a"}])

    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=rf"Cannot read {tmp_path}(?s:.*)Permission denied"):
        load_source(str(tmp_path), kind="text")
    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(UserError, match=rf"Cannot read {tmp_path}(?s:.*)Permission denied"):
        load_source(str(tmp_path / "b.jsonl"), kind="text")


@pytest.mark.parametrize("change", ["append", "new column", "other type", "shorter", "gone"])
def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch, change):
    path = tmp_path / "a.jsonl"
    write(path, [{"text": "a", "n": 1}] * 3)
    lines = json_files._line_rows
    read = []

    def changing(*args):
        yield from lines(*args)
        read.append(1)
        if len(read) == 1:
            if change == "gone":
                path.unlink()
                return
            rows = {"append": {"text": "b", "n": 2}, "new column": {"text": "b", "m": 2}, "other type": {"text": 1}}
            write(path, [{"text": "a", "n": 1}] * (1 if change == "shorter" else 3) + [rows.get(change, {"text": "c"})])

    monkeypatch.setattr(json_files, "_line_rows", changing)
    with pytest.raises(UserError, match=r"a\.jsonl (changed|was changed)|Cannot read .*a\.jsonl"):
        load_source(str(path), kind="text")


def test_no_part_of_a_file_is_recoded_wrongly():
    """UTF-16 in blocks of any size: characters of two and four bytes at every border."""
    import io

    text = "aé数\U0001f600\n" * 50
    for size in range(1, 40):
        stream = io.BufferedReader(opening.Recoded(io.BytesIO(text.encode("utf-16")), "utf-16"), buffer_size=size)
        assert stream.read().decode() == text
