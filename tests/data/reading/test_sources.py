"""Reading files: nothing lost, splits by file name, and errors that name the line, the file or the option."""

import gzip
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from datasets import Dataset

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import load_splits
from alignment.data.reading.sources import load_source, own_test_split
from alignment.data.reading.text_files import split_documents
from alignment.errors import UserError

ROWS = [{"question": "a\u2028b\x85", "answer": "é"}, {"question": "NA", "answer": "1"}]


def rows_of(path, **options):
    return load_source(str(path), kind="sft", **options).to_list()


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_rows(path, rows=ROWS):
    """Write rows in the format of the path's extension."""
    extension = path.name.removesuffix(".gz").rpartition(".")[2]
    if extension == "parquet":
        Dataset.from_list(rows).to_parquet(path)
        return path
    text = {
        "jsonl": lambda: lines(rows),
        "json": lambda: json.dumps(rows, indent=2),
        "csv": lambda: "question,answer\n" + "".join(f'"{row["question"]}",{row["answer"]}\n' for row in rows),
        "tsv": lambda: "question\tanswer\n" + "".join(f"{row['question']}\t{row['answer']}\n" for row in rows),
    }[extension]()
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.json.gz", "a.csv.gz"]
)
def test_every_format_gives_the_same_rows(tmp_path, name):
    assert rows_of(write_rows(tmp_path / name)) == ROWS


def test_json_lines_in_a_json_file(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + lines(ROWS) + "\n\n")
    assert rows_of(tmp_path / "a.json") == ROWS


def test_columns_that_only_later_rows_have(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b", "extra": [1]}])
    assert rows_of(tmp_path / "a.jsonl") == [{"text": "a", "extra": None}, {"text": "b", "extra": [1]}]


def test_columns_of_mixed_types_do_not_hinder(tmp_path):
    write_rows(tmp_path / "a.jsonl", [{"text": "a", "meta": 1}, {"text": "b", "meta": {"x": "y"}}])
    assert [row["text"] for row in rows_of(tmp_path / "a.jsonl")] == ["a", "b"]


def test_globs_and_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    write_rows(tmp_path / "b.jsonl", ROWS[1:])
    write_rows(tmp_path / "deep" / "a.jsonl", ROWS[:1])
    (tmp_path / "README.md").write_text("not data")
    assert rows_of(tmp_path) == [ROWS[1], ROWS[0]]
    assert rows_of(tmp_path / "*.jsonl") == ROWS[1:]
    assert rows_of(tmp_path / "**" / "a.*") == ROWS[:1]


def test_splits_by_file_name(tmp_path):
    write_rows(tmp_path / "train-00001.jsonl", ROWS[:1])
    write_rows(tmp_path / "test.jsonl", ROWS[1:])
    assert rows_of(tmp_path) == rows_of(tmp_path, split="train") == ROWS[:1]
    assert rows_of(tmp_path, split="test") == ROWS[1:]
    assert own_test_split(str(tmp_path)) == "test"
    with pytest.raises(UserError, match=r"has no split validation.\n  got:      the split\(s\) test, train"):
        rows_of(tmp_path, split="validation")


def test_names_that_only_begin_like_a_split(tmp_path):
    write_rows(tmp_path / "testimonials.jsonl")
    assert rows_of(tmp_path) == ROWS
    assert own_test_split(str(tmp_path)) is None


def test_a_file_is_one_split(tmp_path):
    path = write_rows(tmp_path / "test.jsonl")
    assert rows_of(path) == ROWS
    with pytest.raises(UserError, match="has no split test"):
        rows_of(path, split="test")


def test_text_files_are_documents(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"Three."))
    assert rows_of(tmp_path / "*.txt*") == [{"text": "One.\n\nTwo."}, {"text": "Three."}]


def test_long_texts_are_cut_at_blank_lines():
    text = "\n\nFirst\nparagraph.\n\n\nSecond.\n\nThird is long.\n\n"
    assert split_documents(text, characters=30) == ["First\nparagraph.\n\n\nSecond.", "Third is long."]
    assert split_documents(text, characters=100) == [text.strip("\n")]
    assert split_documents("one\ntwo\nthree\n", characters=9) == ["one\ntwo", "three"]
    assert split_documents("  indented stays\n\n\n  indented too", characters=20) == [
        "  indented stays",
        "  indented too",
    ]
    assert split_documents(" \n\n ") == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', r"a.jsonl is not valid JSON at line 3, column 7"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a.json is not valid JSON at line 2, column 7"),
        ("a.jsonl", '{"a": 1}\n"b"\n', r"other than an object at line 2.\n  got:      str: b"),
        ("a.json", '[{"a": 1}, 7]', r"other than an object at item 2.\n  got:      int: 7"),
        ("a.jsonl", "\n", "is empty"),
        ("a.txt", "\n \n", "is empty"),
        ("a.csv", "", "is empty"),
        ("a.csv", 'a,b\n1,2\n1,"2,3\n', "Cannot read"),
        ("a.parquet", "text", "Cannot read"),
        ("a.docx", "text", r"Cannot read .*a.docx.\n  got:      .docx\n  expected: one of .jsonl, .ndjson, .json"),
        ("a.jsonl.gz", "\x1f\x08", "a.jsonl.gz is not valid JSON"),
    ],
)
def test_unreadable_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path / name)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"a.txt is not UTF-8 at line 1"):
        rows_of(tmp_path / "a.txt")


def test_lone_surrogates_name_the_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "\\ud800"}\n')
    with pytest.raises(UserError, match=r"half a character at line 2"):
        rows_of(tmp_path / "a.jsonl")


def test_a_missing_file_names_the_nearest(tmp_path):
    write_rows(tmp_path / "training.jsonl")
    write_rows(tmp_path / "zzz.jsonl")
    with pytest.raises(UserError, match=r"There is no file .*trainin.jsonl(?s:.*)did you mean .*/training.jsonl\?"):
        rows_of(tmp_path / "trainin.jsonl")
    with pytest.raises(UserError, match="There is no file"):
        rows_of(tmp_path / "absent" / "deeper" / "*.jsonl")
    write_rows(tmp_path / "pipeline.json")
    with pytest.raises(UserError, match=r"check the path; .* has pipeline.json, training.jsonl, zzz.jsonl"):
        rows_of(tmp_path / "nonexist.jsonl")


def test_a_folder_of_several_formats(tmp_path):
    write_rows(tmp_path / "a.jsonl")
    write_rows(tmp_path / "b.csv")
    with pytest.raises(UserError, match=r"several kinds.\n  got:      .csv, .jsonl"):
        rows_of(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no data"):
        rows_of(tmp_path / "empty")


def test_the_hub_cannot_be_reached():
    with pytest.raises(UserError, match=r"Cannot load the data set somebody/something from the hub"):
        load_source("somebody/something", kind="sft")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set of three files, 10 rows each, as if it were on the hub; `read` lists the files that were opened."""
    import datasets
    import huggingface_hub

    read = []

    def rows(files):
        for file in files:
            read.append(file)
            for row in range(10):
                yield {"question": f"{file} {row}", "answer": "é"}

    def load(name, config, split, revision, streaming):
        assert (name, config, split, revision, streaming) == ("some/data", None, "train", "abc", True)
        return datasets.IterableDataset.from_generator(rows, gen_kwargs={"files": ["a", "b", "c"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub, "dataset_info", lambda name: SimpleNamespace(sha="abc"))
    return read


def test_streaming_reads_no_more_than_asked_for(hub):
    first = load_source("some/data", kind="sft", streaming=True, max_rows=12)
    assert [row["question"] for row in first] == [f"a {row}" for row in range(10)] + ["b 0", "b 1"]
    assert first.cache_files and hub == ["a", "b"]
    again = load_source("some/data", kind="sft", streaming=True, max_rows=12)
    assert again.to_list() == first.to_list() and hub == ["a", "b"]
    assert len(load_source("some/data", kind="sft", streaming=True)) == 30


def test_streaming_goes_by_the_limits_on_samples(hub):
    """17 rows for training, and 2 of 19 for validation."""
    args = DataArguments("some/data", streaming=True, max_train_samples=17, eval_share=0.1)
    splits = load_splits(args, "sft", seed=0)
    assert (len(splits["train"]), len(splits["validation"])) == (17, 2) and hub == ["a", "b"]


def test_streaming_offline():
    with pytest.raises(UserError, match=r"Cannot load the data set somebody/something from the hub"):
        load_source("somebody/something", kind="sft", streaming=True)


def test_the_first_rows_of_any_source(tmp_path):
    path = write_rows(tmp_path / "a.jsonl")
    assert rows_of(path, max_rows=1) == rows_of(path, max_rows=1, streaming=True) == ROWS[:1]
    assert rows_of(path, max_rows=9) == ROWS


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A stand-in for tinyworld that records how it is called."""
    code = tmp_path / "code.py"
    code.write_text("first")

    @dataclass(frozen=True)
    class WorldConfig:
        seed: int = 0
        people: int = 60
        noise: float = 0.5
        families: str = ""

    calls = []

    def load(name, split, config):
        calls.append((name, split, config))
        return Dataset.from_list([{"text": "a"}])

    module = ModuleType("alignment.data.tinyworld")
    module.WorldConfig, module.load, module.calls, module.FILES = WorldConfig, load, calls, [str(code)]
    module.families_of = lambda families: {}
    monkeypatch.setitem(sys.modules, "alignment.data.tinyworld", module)
    monkeypatch.setattr("alignment.data.tinyworld", module, raising=False)
    return module


def test_tinyworld_names_and_options(world):
    load_source("tinyworld:sft?people=48&noise=0.25", split="validation", kind="sft")
    load_source("tinyworld", kind="text")
    assert world.calls == [
        ("sft", "validation", world.WorldConfig(people=48, noise=0.25)),
        ("pretrain", "train", world.WorldConfig()),
    ]
    assert own_test_split("tinyworld:sft?people=48") == "validation"


def test_tinyworld_is_generated_once_for_its_options_and_code(world):
    for _ in range(2):
        assert load_source("tinyworld:sft?people=49", kind="sft").to_list() == [{"text": "a"}]
    assert len(world.calls) == 1
    load_source("tinyworld:sft?people=50", kind="sft")
    load_source("tinyworld:sft?people=49", split="validation", kind="sft")
    assert len(world.calls) == 3
    Path(world.FILES[0]).write_text("second")
    load_source("tinyworld:sft?people=49", kind="sft")
    assert len(world.calls) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinyworld:sfd", r"Unknown tinyworld data set: sfd(?s:.*)did you mean 'sft'\?"),
        ("tinyworld:sft?peple=3", r"Unknown option of tinyworld: peple(?s:.*)one of seed, people(?s:.*)'people'\?"),
        ("tinyworld:sft?people=many", r"option people of tinyworld cannot take(?s:.*)expected: a whole number"),
    ],
)
def test_tinyworld_mistakes(world, name, message):
    with pytest.raises(UserError, match=message):
        load_source(name, kind="sft")
