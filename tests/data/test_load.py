"""From arguments to splits: clean, seeded, counted; and real files with every row accounted for."""

import json
import logging
import re

import pytest

from alignment.data.arguments import DataArguments
from alignment.data.formats import convert
from alignment.data.load import load_splits
from alignment.data.sources import load_source
from alignment.errors import UserError


@pytest.fixture
def questions(tmp_path):
    """100 rows: 50 questions, each with two answers."""
    rows = [
        {"question": f"Question {index // 2}?", "answer": f"Answer {index}", "level": index} for index in range(100)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(rows):
    return {row["messages"][0]["content"] for row in rows}


def test_a_share_is_split_off_without_shared_prompts(questions):
    splits = load_splits(DataArguments(questions, eval_share=0.1), "sft", seed=0)
    assert (len(splits["train"]), len(splits["validation"])) == (90, 10)
    assert not asked(splits["train"]) & asked(splits["validation"])


def test_the_split_follows_the_seed(questions):
    first, again, other = (load_splits(DataArguments(questions), "sft", seed=seed)["validation"] for seed in (0, 0, 1))
    assert asked(first) == asked(again) != asked(other)


def test_no_share_no_validation(questions):
    assert set(load_splits(DataArguments(questions, eval_share=0), "sft", seed=0)) == {"train"}


def test_limits_and_kept_columns(questions):
    args = DataArguments(questions, max_train_samples=7, max_eval_samples=1)
    splits = load_splits(args, "prompts", seed=0, keep=("level", "task"))
    assert (len(splits["train"]), len(splits["validation"])) == (7, 1)
    assert splits["train"].column_names == ["prompt", "level"]


def test_own_splits_are_used(tmp_path):
    for name, text in (("train", "a"), ("validation", "b"), ("test", "c")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}))
    splits = load_splits(DataArguments(str(tmp_path)), "text", seed=0)
    assert splits["train"]["text"][:] == ["a"] and splits["validation"]["text"][:] == ["b"]
    splits = load_splits(DataArguments(str(tmp_path), dataset_test_split="test"), "text", seed=0)
    assert splits["validation"]["text"][:] == ["c"]


def test_counts_are_logged_in_one_line(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": ""}\n{"text": "b"}\n')
    with caplog.at_level(logging.INFO):
        load_splits(DataArguments(str(path)), "text", seed=0)
    assert (
        f"{path}, split train: 3 rows read as text from text, 2 kept, 1 dropped (1 text is empty: row 2)"
        in caplog.messages
    )


def test_one_row_cannot_be_split(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "a"}\n')
    with pytest.raises(UserError, match="2 row\\(s\\), 1 different"):
        load_splits(DataArguments(str(path)), "text", seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"eval_share": 1.0}, "not a share"), ({"max_train_samples": 0}, "max_train_samples leaves no rows")],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        DataArguments("a.jsonl", **options)


def test_arguments_are_read_by_transformers_parser():
    from transformers import HfArgumentParser

    (args,) = HfArgumentParser(DataArguments).parse_dict({"dataset_name": "a", "columns": {"q": "prompt"}})
    assert args == DataArguments("a", columns={"q": "prompt"})


def real(shared_data, name):
    path = shared_data / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


REAL = [
    ("gsm8k/train.jsonl", "sft", 7473, {}),
    ("gsm8k/train.jsonl", "prompts", 7473, {}),
    (
        "hh/harmless-1500.jsonl",
        "preference",
        1492,
        {
            "chosen and rejected answer different prompts": 1,
            "empty reply": 4,
            "user and assistant do not take turns": 3,
        },
    ),
    ("ifeval/input_data.jsonl", "prompts", 541, {}),
    ("xstest/xstest_prompts.csv", "prompts", 450, {}),
    ("self_instruct/seed_tasks.jsonl", "prompts", 175, {}),
    ("self_instruct/seed_tasks.jsonl", "sft", 175, {}),
    ("self_instruct/user_oriented_instructions.jsonl", "sft", 252, {}),
    ("tinyshakespeare/input.txt", "text", 299, {}),
    (
        "hh/harmless-1500.jsonl",
        "kto",
        2984,
        {
            "chosen and rejected answer different prompts": 1,
            "empty reply": 4,
            "user and assistant do not take turns": 3,
        },
    ),
]


@pytest.mark.parametrize(("name", "kind", "kept", "dropped"), REAL)
def test_real_files_have_all_rows_accounted_for(shared_data, name, kind, kept, dropped):
    path = real(shared_data, name)
    rows, report = convert(load_source(str(path), kind=kind), kind)
    assert (len(rows), report.dropped) == (kept, dropped)
    assert report.read == report.kept + sum(dropped.values())


def test_hh_transcripts_are_put_back_together(shared_data):
    """Whoever writes the messages out again gets the file's transcripts."""
    path = real(shared_data, "hh/harmless-1500.jsonl")
    source = load_source(str(path), kind="preference")
    known = {re.sub(r"\s+", " ", text) for side in ("chosen", "rejected") for text in source[side]}
    names = {"user": "Human", "assistant": "Assistant"}
    for row in convert(source, "preference")[0]:
        for side in ("chosen", "rejected"):
            turns = row["prompt"] + row[side]
            text = "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in turns)
            assert re.sub(r"\s+", " ", text) in known


def test_tinyshakespeare_as_documents(shared_data):
    path = real(shared_data, "tinyshakespeare/input.txt")
    documents = load_source(str(path), kind="text")["text"][:]
    text = path.read_text()
    assert "".join("".join(documents).split()) == "".join(text.split())
    assert all(document in text for document in documents)
    assert len(documents) == 299 and max(map(len, documents)) <= 4000
    # Every document begins with a speaker and a colon.
    assert all(document.split("\n")[0].endswith(":") for document in documents)
