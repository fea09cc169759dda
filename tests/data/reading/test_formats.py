"""What each known layout of columns becomes, message by message, and why rows are dropped."""

import pytest
from datasets import Dataset

from alignment.data.reading.formats import convert, recognise
from alignment.errors import UserError
from alignment.yaml_text import parse_yaml


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def reply(content):
    return {"role": "assistant", "content": content}


def converted(rows, kind, **options):
    dataset, report = convert(Dataset.from_list(rows), kind, **options)
    return dataset.to_list(), report


def union_of(rows):
    """A data set with the keys of all rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names}, on_mixed_types="use_json")


HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Joke?\n\nAssistant: "
THREE_TURNS = [user("Hi"), reply("Hello"), user("Joke?")]

TEXT = {
    "text": ({"text": " a\n"}, " a\n"),
    "content": ({"content": "a", "title": "b"}, "a"),
}

SFT = {
    "messages": ({"messages": [system("Be."), user("Q"), reply("A")]}, [system("Be."), user("Q"), reply("A")]),
    "messages, whitespace kept": ({"messages": [user(" Q "), reply("A\n")]}, [user(" Q "), reply("A\n")]),
    "several turns": ({"messages": [*THREE_TURNS, reply("No")]}, [*THREE_TURNS, reply("No")]),
    "sharegpt": (
        {
            "conversations": [
                {"from": "system", "value": "Be."},
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "A"},
            ]
        },
        [system("Be."), user("Q"), reply("A")],
    ),
    "prompt, completion": ({"prompt": "Q", "completion": "A"}, [user("Q"), reply("A")]),
    "prompt, completion as messages": (
        {"prompt": [system("Be."), user("Q")], "completion": [reply("A")]},
        [system("Be."), user("Q"), reply("A")],
    ),
    "prompt, response": ({"prompt": "Q", "response": "A"}, [user("Q"), reply("A")]),
    "alpaca": ({"instruction": "Sort.", "input": "b a", "output": "a b"}, [user("Sort.\n\nb a"), reply("a b")]),
    "alpaca, empty input": ({"instruction": "Sing.", "input": "", "output": "La"}, [user("Sing."), reply("La")]),
    "alpaca, no input": ({"instruction": "Sing.", "output": "La"}, [user("Sing."), reply("La")]),
    "question, answer": ({"question": "1+1?", "answer": "2"}, [user("1+1?"), reply("2")]),
}

PREFERENCE = {
    "canonical": (
        {"prompt": [system("Be."), user("Q")], "chosen": [reply("A")], "rejected": [reply("B")]},
        [system("Be."), user("Q")],
    ),
    "strings with a prompt": ({"prompt": "Q", "chosen": "A", "rejected": "B"}, [user("Q")]),
    "strings with a prompt of messages": ({"prompt": THREE_TURNS, "chosen": "A", "rejected": "B"}, THREE_TURNS),
    "whole conversations": (
        {"chosen": [*THREE_TURNS, reply("A")], "rejected": [*THREE_TURNS, reply("B")]},
        THREE_TURNS,
    ),
    "whole conversations and the prompt again": (
        {"prompt": "Q", "chosen": [user("Q"), reply("A")], "rejected": [user("Q"), reply("B")]},
        [user("Q")],
    ),
    "hh-rlhf": ({"chosen": HH + "A", "rejected": HH + "B"}, THREE_TURNS),
}

PROMPTS = {
    "prompt": ({"prompt": "Q"}, [user("Q")]),
    "prompt as messages": ({"prompt": [system("Be."), user("Q")]}, [system("Be."), user("Q")]),
    "prompt, completion": ({"prompt": "Q", "completion": "A"}, [user("Q")]),
    "messages without their last reply": ({"messages": [*THREE_TURNS, reply("No")]}, THREE_TURNS),
    "messages that wait for a reply": ({"messages": THREE_TURNS}, THREE_TURNS),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, [user("Q")]),
    "alpaca": ({"instruction": "Sort.", "input": "b a", "output": "a b"}, [user("Sort.\n\nb a")]),
    "question": ({"question": "1+1?", "answer": "2"}, [user("1+1?")]),
    "preference": ({"prompt": "Q", "chosen": "A", "rejected": "B"}, [user("Q")]),
    "whole conversations": ({"chosen": [user("Q"), reply("A")], "rejected": [user("Q"), reply("B")]}, [user("Q")]),
    "hh-rlhf": ({"chosen": HH + "A", "rejected": HH + "B"}, THREE_TURNS),
}


@pytest.mark.parametrize(("row", "text"), TEXT.values(), ids=TEXT)
def test_text(row, text):
    assert converted([row], "text")[0] == [{"text": text}]


@pytest.mark.parametrize(("row", "messages"), SFT.values(), ids=SFT)
def test_sft(row, messages):
    assert converted([row], "sft")[0] == [{"messages": messages}]


@pytest.mark.parametrize(("row", "prompt"), PREFERENCE.values(), ids=PREFERENCE)
def test_preference(row, prompt):
    assert converted([row], "preference")[0] == [{"prompt": prompt, "chosen": [reply("A")], "rejected": [reply("B")]}]


@pytest.mark.parametrize(("row", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_prompts(row, prompt):
    assert converted([row], "prompts")[0] == [{"prompt": prompt}]


def test_a_shared_beginning_of_replies_is_not_prompt():
    rows, _ = converted([{"chosen": HH + "Why did it?", "rejected": HH + "Why not?"}], "preference")
    assert rows[0]["chosen"] == [reply("Why did it?")] and rows[0]["rejected"] == [reply("Why not?")]


def test_replies_of_a_prompt_may_hold_transcripts():
    """With a prompt column a string is a reply, whatever it says."""
    quoted = "It said:\n\nHuman: hi"
    rows, _ = converted([{"prompt": "Q", "chosen": quoted, "rejected": "B"}], "preference")
    assert rows[0]["chosen"] == [reply(quoted)]


GOOD = {
    "text": {"text": "a"},
    "sft": {"messages": [user("Q"), reply("A")]},
    "preference": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "prompts": {"messages": [user("Q")]},
    "kto": {"prompt": "Q", "completion": "A", "label": True},
}
UNUSABLE = [
    ("text", {"text": "  \n"}, "text is empty"),
    ("text", {"text": None}, "text is missing"),
    ("sft", {"messages": []}, "the conversation is empty"),
    ("sft", {"messages": None}, "the conversation is empty"),
    ("sft", {"messages": [user("Q"), reply(" ")]}, "empty reply"),
    ("sft", {"messages": [user(""), reply("A")]}, "empty message"),
    ("sft", {"messages": [user("Q"), reply(None)]}, "a message has no content"),
    ("sft", {"messages": [user("Q")]}, "the last turn is not a reply"),
    ("sft", {"messages": [system("Be.")]}, "the last turn is not a reply"),
    ("sft", {"messages": [reply("A")]}, "the first turn is a reply"),
    ("sft", {"messages": [user("Q"), {"role": "tool", "content": "A"}]}, "tools or function calls"),
    ("sft", {"messages": [user("Q"), {"role": "judge", "content": "A"}]}, "a message has an unknown role"),
    ("sft", {"messages": [user("Q"), {**reply("A"), "tool_calls": [{"name": "f"}]}]}, "tools or function calls"),
    ("sft", {"messages": [user("Q"), {**reply(None), "function_call": {"name": "f"}}]}, "tools or function calls"),
    ("sft", {"messages": [user("Q"), reply("A")], "tools": [{"name": "f"}]}, "tools or function calls"),
    ("sft", {"messages": [user("Q"), reply("A")], "images": ["a.png"]}, "images"),
    ("sft", {"messages": [user([{"type": "image"}, {"type": "text", "text": "Q"}]), reply("A")]}, "images"),
    ("sft", {"messages": [user([{"type": "audio", "text": "Q"}]), reply("A")]}, "a content of several parts"),
    ("sft", {"messages": [user("Q"), {**reply("A"), "thinking": "So"}]}, "reasoning apart from the reply"),
    ("sft", {"messages": [user("Q"), {**reply("A"), "weight": 0}]}, "a reply is marked not to be learned"),
    ("sft", {"messages": [system("Be."), user("Q"), reply("A")], "system": "Do."}, "two system messages"),
    ("kto", {"prompt": "Q", "completion": "A", "label": None}, "label is missing"),
    ("kto", {"prompt": "Q", "completion": "A", "label": 2}, "label is neither true nor false"),
    ("kto", {"prompt": "Q", "completion": "", "label": True}, "empty reply"),
    ("preference", {"prompt": "Q", "chosen": "A", "rejected": " A "}, "chosen and rejected are the same"),
    ("preference", {"prompt": "Q", "chosen": "A", "rejected": ""}, "empty reply"),
    ("preference", {"prompt": "Q", "chosen": "A", "rejected": None}, "rejected is missing"),
    ("preference", {"prompt": " ", "chosen": "A", "rejected": "B"}, "empty message"),
    ("prompts", {"messages": [reply("A")]}, "there is no request"),
]


@pytest.mark.parametrize(("kind", "row", "reason"), UNUSABLE)
def test_dropped_rows_are_counted_by_reason(kind, row, reason):
    rows, report = convert(union_of([GOOD[kind], row, row]), kind)
    assert len(rows) == 1
    assert report.rows == 3 and report.examples == {reason: [2, 3]}
    assert (report.read, report.kept, report.dropped) == (3, 1, {reason: 2})
    values = f" ({', '.join(report.seen[reason])})" if report.seen else ""
    assert f"3 rows read as {kind}" in str(report) and f"2 dropped (2 {reason}{values}: row 2, 3)" in str(report)


TRANSCRIPTS = [
    ("no turns at all", "no turns at all either", "malformed transcript"),
    ("Title\n\nHuman: Q\n\nAssistant: A", "Title\n\nHuman: Q\n\nAssistant: B", "malformed transcript"),
    (HH + "A", HH.replace("Joke", "Song") + "B", "chosen and rejected answer different prompts"),
    ("\n\nHuman: Q\n\nAssistant: A", "\n\nHuman: Q\n\nAssistant:", "empty reply"),
]


@pytest.mark.parametrize(("chosen", "rejected", "reason"), TRANSCRIPTS)
def test_dropped_transcripts(chosen, rejected, reason):
    good = {"chosen": HH + "A", "rejected": HH + "B"}
    _, report = converted([good, {"chosen": chosen, "rejected": rejected}], "preference")
    assert (report.kept, report.dropped) == (1, {reason: 1})


def test_no_usable_row_is_an_error():
    with pytest.raises(
        UserError, match=r"No row can be used as text.\n  got:      2 rows .* 2 dropped \(2 text is empty: row 1, 2\)"
    ):
        converted([{"text": ""}, {"text": " "}], "text")


def test_kept_columns():
    rows, _ = converted([{"question": "Q", "answer": "A", "level": 3, "other": 1}], "prompts", keep=["level", "absent"])
    assert rows == [{"prompt": [user("Q")], "level": 3}]


def test_a_kept_column_never_replaces_a_canonical_one():
    rows, _ = converted([{"prompt": "Q"}], "prompts", keep=["prompt"])
    assert rows == [{"prompt": [user("Q")]}]


def test_columns_are_renamed_first():
    columns = {"q": "question", "a": "answer"}
    assert converted([{"q": "1+1?", "a": "2"}], "sft", columns=columns)[0] == [{"messages": [user("1+1?"), reply("2")]}]


def test_mapped_columns_come_before_recognised_ones():
    row = {"text": "title", "body": "story"}
    assert converted([row], "text", columns={"body": "text"})[0] == [{"text": "story"}]
    row = {"messages": [user("no"), reply("no")], "q": "Q", "a": "A"}
    rows, _ = converted([row], "sft", columns={"q": "prompt", "a": "completion"})
    assert rows == [{"messages": [user("Q"), reply("A")]}]


def test_swapped_columns():
    rows, _ = converted(
        [{"question": "2", "answer": "1+1?"}], "sft", columns={"question": "answer", "answer": "question"}
    )
    assert rows == [{"messages": [user("1+1?"), reply("2")]}]


def test_unknown_columns_are_an_error_that_shows_the_way():
    with pytest.raises(UserError) as error:
        recognise(["id", "place"], "preference", rows=[{"id": "a", "place": "b"}])
    assert str(error.value) == (
        "The columns are not recognised as preference data.\n"
        "  got:      columns id, place\n"
        "  expected: one of these sets of columns: chosen, rejected | a request (prompt, instruction, question, query, "
        "problem, inputs, input), chosen, rejected\n"
        '  fix:      `columns: {place: "???"}` (for ??? write prompt, chosen or rejected, or leave the column out)'
    )


@pytest.mark.parametrize(
    ("kind", "row", "fix"),
    [
        (
            "preference",
            {"id": "1", "ticket": "a", "good": "b", "bad": "c"},
            '`columns: {ticket: "???", good: "???", bad: "???"}` (for ??? write prompt, chosen or rejected, or '
            "leave the column out)",
        ),
        (
            "preference",
            {"prompt": "a", "good": "b", "bad": "c", "note": "d"},
            '`columns: {good: "???", bad: "???", note: "???"}` (for ??? write chosen or rejected, or leave the '
            "column out)",
        ),
        (
            "kto",
            {"ask": "a", "said": "b", "ok": True, "n": 5},
            '`columns: {ask: "???", said: "???", ok: "???"}` ',
        ),
        ("sft", {"foo": "a"}, "or leave the column out); plain text without turns is data for `align pretrain`"),
        ("sft", {"prompt": "a", "id": 3}, "; prompts without replies are for a `sample` stage (`write: completions`)"),
        ("text", {"foo": 1}, "map the column that holds the documents with `columns: {NAME: text}`"),
    ],
)
def test_unknown_columns_come_back_as_a_mapping_to_complete(kind, row, fix):
    with pytest.raises(UserError) as error:
        recognise([*row], kind, rows=[row, row])
    assert fix in error.value.fix
    if error.value.fix.startswith("`columns: {") and kind != "text":
        assert {*parse_yaml(error.value.fix.split("`")[1], "the fix")["columns"]} <= {*row}  # pasteable


def test_bad_mappings_are_errors():
    with pytest.raises(UserError, match="columns that the data set does not have: body"):
        converted([{"text": "a"}], "text", columns={"body": "text"})
    with pytest.raises(UserError, match="two columns to one name: text"):
        converted([{"a": "a", "b": "b"}], "text", columns={"a": "text", "b": "text"})


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        ({"question": "q", "answer_1": "a", "answer_2": "b"}, "did you mean answer_2 and answer_1?"),
        ({"question": "q", "task": {"answer": "a"}}, "use one of the data set's columns on the left"),
    ],
)
def test_each_missing_column_has_a_suggestion_of_its_own(row, fix):
    with pytest.raises(UserError) as error:
        converted([row], "preference", columns={"answer_a": "chosen", "answer_b": "rejected"})
    assert error.value.fix == fix


def test_the_first_few_rows_of_each_reason_are_named():
    texts = ["a", "", None, "b", "", "", ""]
    _, report = converted([{"text": text} for text in texts], "text")
    assert report.examples == {"text is empty": [2, 5, 6], "text is missing": [3]}
    assert "4 text is empty: row 2, 5, 6, ...; 1 text is missing: row 3)" in str(report)


def test_instances_are_counted_one_by_one():
    """Two instructions that hold three instances, of which one has no reply; and one that holds none."""
    rows = [
        {
            "instruction": "Add.",
            "instances": [{"input": "1 1", "output": "2"}, {"input": "1 2", "output": ""}],
            "id": 1,
        },
        {"instruction": "Sing.", "instances": [{"input": "", "output": "La"}], "id": 2},
        {"instruction": "Wait.", "instances": [], "id": 3},
    ]
    found, report = converted(rows, "sft", keep=["id"])
    assert found == [
        {"messages": [user("Add.\n\n1 1"), reply("2")], "id": 1},
        {"messages": [user("Sing."), reply("La")], "id": 2},
    ]
    assert (report.rows, report.read, report.kept) == (3, 4, 2)
    assert report.dropped == {"empty reply": 1, "there are no instances": 1}
    assert str(report).startswith("4 rows (of 3 in the source) read as sft from instruction, instances, 2 kept")


def test_pairs_become_kto_rows():
    rows = [{"prompt": "Q", "chosen": "A", "rejected": "B"}, {"prompt": "Q", "chosen": "A", "rejected": "A"}]
    found, report = converted(rows, "kto")
    assert found == [
        {"prompt": [user("Q")], "completion": [reply("A")], "label": True},
        {"prompt": [user("Q")], "completion": [reply("B")], "label": False},
    ]
    assert (report.rows, report.read, report.kept) == (2, 3, 2)
    assert report.dropped == {"chosen and rejected are the same": 1}


def test_unwanted_completions_are_no_examples_to_imitate():
    rows = [{"prompt": "Q", "completion": text, "label": wanted} for text, wanted in (("A", True), ("B", False))]
    found, report = converted(rows, "sft")
    assert found == [{"messages": [user("Q"), reply("A")]}]
    assert report.dropped == {"the completion is labelled as unwanted": 1}


def test_a_system_column_begins_the_conversation():
    row = {"system_prompt": "Be.", "question": "Q", "answer": "A"}
    found, report = converted([row], "sft")
    assert found == [{"messages": [system("Be."), user("Q"), reply("A")]}]
    assert report.format == "question, answer, system_prompt"
    assert converted([{"system": "", "prompt": "Q"}], "prompts")[0] == [{"prompt": [user("Q")]}]


def test_rows_on_disk_are_converted_on_disk_once(tmp_path, monkeypatch):
    """The second time the rows and the report come from the cache; other columns are another key."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "level": 1}\n{"text": ""}\n')
    source = Dataset.from_json(str(path), cache_dir=tmp_path / "cache")
    rows, report = convert(source, "text", keep=None)
    assert rows.cache_files and rows.to_list() == [{"text": "a", "level": 1}]

    def again_converted(*_):
        raise UserError("converted again")

    monkeypatch.setattr("alignment.data.reading.formats._tables", again_converted)
    again, second = convert(source, "text", keep=None)
    assert again.to_list() == rows.to_list() and second == report and report.examples == {"text is empty": [2]}
    with pytest.raises(UserError, match="converted again"):
        convert(source, "text")
