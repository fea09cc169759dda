"""From arguments to splits: clean, seeded, counted; and real files with every row accounted for."""

import json
import logging
import os
import random
import re
import subprocess
import sys

import pytest

from alignment.data.arguments import DataArguments
from alignment.data.preparing.load import load_splits, prepare
from alignment.data.reading.formats import convert
from alignment.data.reading.sources import load_source
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
        f"train: 1 rows of 3 from {path}, split train, columns text "
        "(dropped: 1 text is empty: row 2 of the source; 1 split off for validation (seed 0))" in caplog.messages
    )


def test_one_row_cannot_be_split(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "a"}\n')
    with pytest.raises(UserError, match="2 row\\(s\\), 1 distinct"):
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


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(folder, name, values):
    return write(folder / name, [{"text": value} for value in values])


def removals(account):
    return {removal.reason: removal.rows for removal in account.removed}


def of_split(report, split):
    return [account for account in report.accounts if account.split == split]


@pytest.fixture
def two_sources(tmp_path):
    """20 rows a0..a19 and 6 rows b0..b5."""
    first = texts(tmp_path, "a.jsonl", [f"a{number}" for number in range(20)])
    return first, texts(tmp_path, "b.jsonl", [f"b{number}" for number in range(6)])


def mixture(sources, options=({}, {}), **arguments):
    entries = [{"name": name, **entry} for name, entry in zip(sources, options, strict=True)]
    return DataArguments(datasets=entries, **{"eval_share": 0, **arguments})


def test_a_mix_without_weights_holds_all_rows_in_a_seeded_order(two_sources):
    rows = load_splits(mixture(two_sources), "text", seed=0)["train"]["text"][:]
    again, other = (load_splits(mixture(two_sources), "text", seed=seed)["train"]["text"][:] for seed in (0, 1))
    assert rows == again != other
    assert sorted(rows) == sorted(other) == sorted([f"a{n}" for n in range(20)] + [f"b{n}" for n in range(6)])


def test_weights_caps_and_epochs_are_accounted_for(two_sources, caplog):
    options = ({"weight": 1}, {"weight": 3, "max_rows": 4, "epochs": 1.5})
    with caplog.at_level(logging.INFO):
        prepared = prepare(mixture(two_sources, options), "text", 0)
    rows = prepared.splits["train"]["text"][:]
    first, second = prepared.report.accounts
    assert len(rows) == 8 and sorted(set(rows) & {"b0", "b1", "b2", "b3", "b4", "b5"}) == ["b0", "b1", "b2", "b3"]
    assert (first.rows, first.repeated, first.share, removals(first)) == (2, 0, 0.25, {"not drawn for the mix": 18})
    assert (second.rows, second.repeated, second.share, removals(second)) == (6, 2, 0.75, {"beyond max_rows": 2})
    assert first.adds_up and second.adds_up
    assert f"the mix has 8 rows, limited by {two_sources[1]}, the scarcest source for its weight: 6 rows" in caplog.text


def test_a_limit_keeps_the_shares_of_the_mix(two_sources):
    prepared = prepare(mixture(two_sources, max_train_samples=13), "text", 0)
    assert [account.rows for account in prepared.report.accounts] in ([10, 3], [9, 4], [11, 2])
    assert all(account.adds_up for account in prepared.report.accounts)
    whole = load_splits(mixture(two_sources), "text", 0)["train"]["text"][:]
    assert prepared.splits["train"]["text"][:] == whole[:13]


def test_validation_of_a_mix_is_taken_of_every_source(two_sources, tmp_path):
    (tmp_path / "own").mkdir()
    texts(tmp_path / "own", "train.jsonl", ["c0", "c1"])
    texts(tmp_path / "own", "test.jsonl", ["c2", "c3", "c4"])
    args = mixture([*two_sources, str(tmp_path / "own")], ({}, {}, {}), eval_share=0.5)
    prepared = prepare(args, "text", 0)
    assert [account.rows for account in of_split(prepared.report, "validation")] == [10, 3, 3]
    assert {"c2", "c3", "c4"} < set(prepared.splits["validation"]["text"][:])
    assert not set(prepared.splits["train"]["text"][:]) & set(prepared.splits["validation"]["text"][:])


def test_columns_of_a_source_are_mapped_for_it_alone(two_sources, tmp_path):
    other = write(tmp_path / "c.jsonl", [{"body": "c0", "text": "title"}])
    args = mixture([two_sources[1], other], ({}, {"columns": {"body": "text"}}))
    assert "c0" in load_splits(args, "text", 0)["train"]["text"][:]


def test_kept_columns_of_different_types_keep_their_values(tmp_path):
    first = write(tmp_path / "a.jsonl", [{"prompt": "a", "level": 1}])
    second = write(tmp_path / "b.jsonl", [{"prompt": "b", "level": {"x": 1}}])
    rows = load_splits(mixture([first, second]), "prompts", 0, keep=None)["train"].to_list()
    assert {row["prompt"][0]["content"]: row["level"] for row in rows} == {"a": 1, "b": {"x": 1}}
    assert len(load_splits(mixture([first, second]), "prompts", 0)["train"]) == 2


def test_a_kept_column_of_one_source_is_empty_for_the_other(tmp_path):
    first = write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": 1}])
    second = write(tmp_path / "b.jsonl", [{"prompt": "b"}])
    rows = load_splits(mixture([first, second]), "prompts", 0, keep=None)["train"]
    assert sorted(map(str, rows["answer"])) == ["1", "None"]


LONG = " ".join(f"word{number}" for number in range(40))


def test_filters_count_every_row_and_leave_an_own_test_split_alone(tmp_path):
    near = LONG.replace("word39", "changed")
    train = ["short", "kept row one", "kept row one", "kept  row one", LONG, near, f"so: {LONG[:200]}", "x" * 400, ""]
    texts(tmp_path, "train.jsonl", train)
    texts(tmp_path, "test.jsonl", ["v", "v"])
    args = DataArguments(
        str(tmp_path), deduplicate="near", min_characters=6, max_characters=399, decontaminate=["quiz"]
    )
    prepared = prepare(args, "text", 0, avoid={"quiz": [" ".join(LONG.split()[:13]) + " asked", "kept row two"]})
    account, validation = prepared.report.accounts
    assert prepared.splits["train"]["text"][:] == ["kept row one"]
    assert removals(account) == {
        "text is empty": 1,
        "shorter than 6 characters": 1,
        "longer than 399 characters": 1,
        "duplicate": 2,
        "near duplicate": 1,
        "holds an item of quiz": 2,
    }
    assert account.read == 9 and account.rows == 1 and account.adds_up
    assert account.removed[3].examples == ["usable row 3: 'kept row one'", "usable row 4: 'kept row one'"]
    assert (
        account.removed[4].examples[0].startswith("usable row 6: 'word0 word1")
        and "(like 'word0" in account.removed[4].examples[0]
    )
    assert (validation.rows, validation.removed) == (2, [])
    assert json.loads(json.dumps(prepared.report.to_json()))["splits"] == {"train": 1, "validation": 2}


def test_duplicates_of_another_source_are_found(two_sources, tmp_path):
    third = texts(tmp_path, "c.jsonl", ["b0", "c", "b5"])
    report = prepare(mixture([two_sources[1], third], deduplicate="exact"), "text", 0).report
    assert [(account.rows, removals(account)) for account in report.accounts] == [(6, {}), (1, {"duplicate": 2})]
    assert report.accounts[1].removed[0].examples == ["usable row 1: 'b0'", "usable row 3: 'b5'"]


def test_duplicates_that_stay_are_told(tmp_path):
    path = texts(tmp_path, "a.jsonl", ["a", "b", "a ", "a"])
    report = prepare(DataArguments(path, eval_share=0), "text", 0).report
    assert (report.accounts[0].rows, report.accounts[0].duplicates) == (4, 2)
    assert report.repeated_text == 0.6
    note = (
        "2 of 4 training rows (60.0% of their text) are exact duplicates (kept; set `deduplicate: exact` to drop them)"
    )
    assert report.notes == [note]


def test_texts_of_a_suite_must_be_passed_in(questions):
    with pytest.raises(ValueError, match="texts of quiz"):
        load_splits(DataArguments(questions, decontaminate=["quiz"]), "sft", 0)


def test_nothing_left_is_an_error_that_says_where_it_went(questions):
    with pytest.raises(UserError, match=r"No train row is left(.|\n)*100 longer than 3 characters"):
        load_splits(DataArguments(questions, max_characters=3, eval_share=0), "sft", 0)


def test_training_rows_of_an_own_test_split_are_left_out(tmp_path):
    """The same but for white space; of a conversation what is asked counts, whatever the reply."""
    write(tmp_path / "train.jsonl", [{"question": f"q{n}", "answer": "a"} for n in range(5)])
    write(tmp_path / "test.jsonl", [{"question": " q3\n", "answer": "b"}, {"question": "q9", "answer": "b"}])
    prepared = prepare(DataArguments(str(tmp_path)), "sft", 0)
    assert asked(prepared.splits["train"]) == {"q0", "q1", "q2", "q4"}
    account = prepared.report.accounts[0]
    assert removals(account) == {"also in the validation split": 1} and account.adds_up
    assert account.removed[0].examples == ["usable row 4: 'q3 a'"]


def test_another_sources_held_out_rows_are_left_out_too(two_sources, tmp_path):
    (tmp_path / "own").mkdir()
    texts(tmp_path / "own", "train.jsonl", ["c"])
    texts(tmp_path / "own", "test.jsonl", ["a3", "b5"])
    report = prepare(mixture([*two_sources, str(tmp_path / "own")], ({}, {}, {})), "text", 0).report
    assert [account.rows for account in of_split(report, "train")] == [19, 5, 1]


@pytest.mark.parametrize("own", [True, False])
def test_near_duplicates_of_held_out_rows_are_left_out(tmp_path, own):
    """With `near`, whether the held-out rows are the source's own or split off."""
    rng = random.Random(0)
    asked_once = [" ".join(rng.choices(LONG.split(), k=30)) for _ in range(40)]
    rows = [{"prompt": text, "completion": f"reply {n}"} for n, text in enumerate(asked_once)]
    rows += [{"prompt": f"{text}, please", "completion": f"reply {n + 40}"} for n, text in enumerate(asked_once)]
    if own:
        write(tmp_path / "train.jsonl", rows[10:])
        write(tmp_path / "test.jsonl", rows[:10])
    else:
        write(tmp_path / "rows.jsonl", rows)
    name = str(tmp_path if own else tmp_path / "rows.jsonl")
    plain = prepare(DataArguments(name, eval_share=0.2), "sft", 0)
    near = prepare(DataArguments(name, eval_share=0.2, deduplicate="near", near_duplicate_threshold=0.9), "sft", 0)

    def leaks(splits):
        held_out = {text.removesuffix(", please") for text in asked(splits["validation"])}
        return [text for text in asked(splits["train"]) if text.removesuffix(", please") in held_out]

    assert len(leaks(plain.splits)) >= 10 and not leaks(near.splits)
    (account,) = of_split(near.report, "train")
    assert account.adds_up and (not own or removals(account)["like a row of a held-out split"] == 10)


def test_a_further_held_out_split_is_kept_clean_of(tmp_path):
    for name, values in (("train", "abc"), ("validation", "b"), ("test", "cc")):
        texts(tmp_path, f"{name}.jsonl", list(values))
    prepared = prepare(DataArguments(str(tmp_path), max_eval_samples=1), "text", 0, held_out={"card": "test"})
    assert {name: rows["text"][:] for name, rows in prepared.splits.items()} == {
        "train": ["a"],
        "validation": ["b"],
        "card": ["c", "c"],
    }
    assert removals(prepared.report.accounts[0]) == {
        "also in the validation split": 1,
        "also in the card split": 1,
    }


def test_split_off_rows_are_in_the_account(questions):
    report = prepare(DataArguments(questions, eval_share=0.1, max_train_samples=30), "sft", 0).report
    train, validation = report.accounts
    assert removals(train) == {"split off for validation (seed 0)": 10, "beyond max_train_samples": 60}
    assert (train.read, train.rows, validation.read, validation.rows) == (100, 30, 10, 10)
    assert train.adds_up and validation.adds_up


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pretrain?documents=3000", "text"),
        ("sft?demonstrations=600", "sft"),
        ("preference?pairs=600", "preference"),
        ("prompts?prompts=600", "prompts"),
    ],
)
def test_tinyworld_comes_as_it_is(name, kind):
    """With the defaults no row is left out, added or moved; what its splits share is told."""
    prepared = prepare(DataArguments(f"tinyworld:{name}"), kind, 0)
    for split, rows in prepared.splits.items():
        expected, _ = convert(load_source(f"tinyworld:{name}", split=split, kind=kind), kind)
        assert rows.to_list() == expected.to_list()
    assert all(account.rows == account.read and not account.removed for account in prepared.report.accounts)
    assert (prepared.report.accounts[0].shared > 0) == (kind == "text")


def test_the_same_rows_in_another_process(two_sources, tmp_path):
    """Order, near duplicates and hits hang on nothing but the rows and the seed."""
    third = texts(tmp_path, "c.jsonl", [LONG, LONG + " end", "holds a short item"] + [f"other {n}" for n in range(9)])
    options = {"deduplicate": "near", "decontaminate": ["s"], "eval_share": 0.2}
    args = mixture([*two_sources, third], ({"weight": 2}, {"weight": 1}, {"weight": 1}), **options)
    avoid = {"s": ["a short item"]}
    code = (
        "import json; from alignment.data.preparing.load import prepare;"
        "from alignment.data.arguments import DataArguments;"
        f"prepared = prepare(DataArguments(datasets={args.datasets!r}, **{options!r}), 'text', 5, avoid={avoid!r});"
        "rows = {name: rows['text'][:] for name, rows in prepared.splits.items()};"
        "print(json.dumps([prepared.report.to_json(), rows]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    prepared = prepare(args, "text", 5, avoid=avoid)
    here = [prepared.report.to_json(), {name: rows["text"][:] for name, rows in prepared.splits.items()}]
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(json.dumps(here))


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
        1496,
        {"empty reply": 4},
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
        2992,
        {"empty reply": 4},
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
    rows, report = convert(source, "preference")
    other = set()
    for number, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            turns = row["prompt"] + row[side]
            text = "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in turns)
            if re.sub(r"\s+", " ", text) not in known:
                other.add(number)
    # Rows with consecutive turns of one role, which are merged.
    assert len(other) == sum(count for what, count in report.changed.items() if "merged" in what) == 4


def test_tinyshakespeare_as_documents(shared_data):
    path = real(shared_data, "tinyshakespeare/input.txt")
    documents = load_source(str(path), kind="text")["text"][:]
    text = path.read_text()
    assert "".join("".join(documents).split()) == "".join(text.split())
    assert all(document in text for document in documents)
    assert len(documents) == 299 and max(map(len, documents)) <= 4000
    # Every document begins with a speaker and a colon.
    assert all(document.split("\n")[0].endswith(":") for document in documents)


def test_changes_and_columns_not_read_are_in_the_account(tmp_path):
    """data.json: rows that were changed, columns that may change the meaning, and columns left out."""
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    rows = [{"messages": turns, "context": "c", "completions": ["d"]}, {"messages": turns[:1], "context": "a"}]
    report = prepare(DataArguments(write(tmp_path / "a.jsonl", rows), eval_share=0), "prompts", 0, keep=None).report
    (account,) = report.to_json()["accounts"]
    assert account["changed"] == {"rows with merged turns of one role": 1} and account["unread"] == {"context": 1}
    assert "completions" in account["notes"][0] and account["read"] == account["rows"] == 2
    assert any("not read: context (1 rows)" in note for note in report.notes)
    assert any("are left out: completions" in note for note in report.notes)


@pytest.mark.parametrize("limit", [None, 5, 64])
def test_duplicates_are_at_most_the_rows_read(limit, tmp_path):
    """Whatever part of the rows is used, and for pairs that become two rows each."""
    rows = [{"prompt": f"p{number % 3}", "chosen": "A", "rejected": "B"} for number in range(100)]
    args = DataArguments(write(tmp_path / "a.jsonl", rows), eval_share=0, max_train_samples=limit)
    for kind, read in (("preference", 100), ("kto", 200), ("prompts", 100)):
        (account,) = prepare(args, kind, 0).report.accounts
        distinct = 6 if kind == "kto" else 3
        assert account.adds_up and (account.read, account.duplicates) == (read, read - distinct)
