"""Rows as they occur in public data sets and in users' files: what they become, or why they are dropped.

Whatever a row holds, it is converted or counted by its reason; nothing else comes of it.
"""

import json
import random
import re

import pytest
import yaml
from datasets import Dataset

from alignment.data.columns.cell_values import Row, Unusable
from alignment.data.reading import formats
from alignment.data.reading.formats import convert
from alignment.data.reading.row_formats import FORMATS, KINDS, LABEL, OTHER_PROMPT, READ_COLUMNS, canonical_rows_of
from alignment.data.reading.sources import load_source
from alignment.errors import UserError


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def reply(content):
    return {"role": "assistant", "content": content}


def table(rows):
    """A data set with the keys of all rows, as the reader of JSON lines makes it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names}, on_mixed_types="use_json")


def converted(rows, kind, **options):
    found, report = convert(table(rows), kind, **options)
    assert report.read == report.kept + sum(report.dropped.values()) and report.kept == len(found)
    return found.to_list(), report


def messages_of(kind, row):
    """The parts of a canonical row without their names, which are those of the kind."""
    parts = [row[name] for name in KINDS[kind]]
    return parts[0] if len(parts) == 1 else parts


QA = [user("Q"), reply("A")]
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Joke?\n\nAssistant: "
HH_TURNS = [user("Hi"), reply("Hello"), user("Joke?")]
PAIR = [[user("Q")], [reply("A")], [reply("B")]]

# name -> (kind, row, what it becomes)
BECOMES = {
    # Replies and requests that are not strings
    "reply, a whole number": ("sft", {"question": "Q", "answer": 42}, [user("Q"), reply("42")]),
    "reply, a fraction": ("sft", {"question": "Q", "answer": 3.5}, [user("Q"), reply("3.5")]),
    "reply, a fraction that is whole": ("sft", {"question": "Q", "answer": 7.0}, [user("Q"), reply("7")]),
    "reply, zero": ("sft", {"prompt": "Q", "completion": 0}, [user("Q"), reply("0")]),
    "reply, a list of one text": ("sft", {"question": "Q", "answer": ["A"]}, QA),
    "reply, a message": ("sft", {"prompt": "Q", "completion": reply("A")}, QA),
    "reply, a list of messages": ("sft", {"question": "Q", "answer": [reply("A")]}, QA),
    "request, a number": ("sft", {"prompt": 7, "completion": "A"}, [user("7"), reply("A")]),
    "content, a number": ("sft", {"messages": [user("Q"), reply(42)]}, [user("Q"), reply("42")]),
    "text, a number": ("text", {"text": 5}, "5"),
    "replies of a pair, numbers": ("preference", {"prompt": "Q", "chosen": 1, "rejected": 2}, None),
    # Roles and keys of messages
    "roles, ShareGPT": ("sft", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, QA),
    "roles, capitals": (
        "sft",
        {"messages": [{"role": "User", "content": "Q"}, {"role": "Assistant", "content": "A"}]},
        QA,
    ),
    "roles, OASST": ("sft", {"messages": [{"role": "prompter", "text": "Q"}, {"role": "assistant", "text": "A"}]}, QA),
    "roles, bot": ("sft", {"messages": [{"author": "Human", "text": "Q"}, {"author": "bot", "text": "A"}]}, QA),
    "roles, model": ("sft", {"messages": [user("Q"), {"role": "model", "content": "A"}]}, QA),
    "roles, AI": ("sft", {"messages": [{"from": "Human ", "value": "Q"}, {"from": "AI", "value": "A"}]}, QA),
    "roles, chatgpt": ("sft", {"messages": [user("Q"), {"role": "chatgpt", "content": "A"}]}, QA),
    "roles, developer": ("sft", {"messages": [{"role": "developer", "content": "Be."}, *QA]}, [system("Be."), *QA]),
    "column, conversation": ("sft", {"conversation": QA, "model": "m"}, QA),
    "turns, a question and its reply": (
        "sft",
        {"conversation": [{"human": "Hi", "assistant": "Hello"}, {"human": "Q", "assistant": "A"}]},
        [user("Hi"), reply("Hello"), *QA],
    ),
    "turns, columns of lists": ("sft", {"conversations": {"from": ["human", "gpt"], "value": ["Q", "A"]}}, QA),
    "turns, texts (LIMA)": ("sft", {"conversations": ["Q", "A"]}, QA),
    # Text that holds JSON
    "messages as JSON text": ("sft", {"messages": json.dumps(QA)}, QA),
    "ShareGPT as JSON text": (
        "sft",
        {"conversations": '[{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]'},
        QA,
    ),
    "prompt as JSON text": ("prompts", {"prompt": json.dumps([system("Be."), user("Q")])}, [system("Be."), user("Q")]),
    "pair as JSON text": (
        "preference",
        {"chosen": json.dumps(QA), "rejected": json.dumps([user("Q"), reply("B")])},
        PAIR,
    ),
    "a request that quotes JSON": ("prompts", {"prompt": '[{"id": 1}]'}, [user('[{"id": 1}]')]),
    # Contents of parts
    "parts, one text": ("sft", {"messages": [user([{"type": "text", "text": "Q"}]), reply("A")]}, QA),
    "parts, two texts": (
        "sft",
        {"messages": [user([{"type": "text", "text": "Q"}, {"type": "text", "text": "?"}]), reply("A")]},
        [user("Q?"), reply("A")],
    ),
    "parts, empty image": (
        "sft",
        {"messages": [user([{"type": "text", "text": "Q", "image": None}]), reply([{"type": "text", "text": "A"}])]},
        QA,
    ),
    # Turns of one role
    "merged, requests": ("sft", {"messages": [user("Hi"), user("Q"), reply("A")]}, [user("Hi\n\nQ"), reply("A")]),
    "merged, replies": ("sft", {"messages": [user("Q"), reply("A"), reply("B")]}, [user("Q"), reply("A\n\nB")]),
    "merged, transcript": (
        "sft",
        {"transcript": "\n\nHuman: Hi\n\nHuman: Q\n\nAssistant: A"},
        [user("Hi\n\nQ"), reply("A")],
    ),
    "merged, system": ("sft", {"messages": [system("Be."), system("Do."), *QA]}, [system("Be.\n\nDo."), *QA]),
    "merged, last replies of a prompt": ("prompts", {"messages": [user("Q"), reply("A"), reply("B")]}, [user("Q")]),
    "merged, pair": (
        "preference",
        {"prompt": "Q", "chosen": [reply("A"), reply("C")], "rejected": "B"},
        [[user("Q")], [reply("A\n\nC")], [reply("B")]],
    ),
    "system, empty": ("sft", {"messages": [system(""), *QA]}, QA),
    # Columns of a request
    "Dolly": (
        "sft",
        {"instruction": "Who?", "context": "The horse.", "response": "It.", "category": "qa"},
        [user("Who?\n\nThe horse."), reply("It.")],
    ),
    "Dolly, no context": ("sft", {"instruction": "Q", "context": "", "response": "A", "category": "qa"}, QA),
    "Dolly as prompts": (
        "prompts",
        {"instruction": "Who?", "context": "The horse.", "response": "It."},
        [user("Who?\n\nThe horse.")],
    ),
    "SQuAD": (
        "prompts",
        {"id": "1", "title": "T", "context": "The horse.", "question": "Who?", "answers": {"text": ["It"]}},
        [user("The horse.\n\nWho?")],
    ),
    "context, texts": ("prompts", {"question": "Who?", "context": ["One.", "Two."]}, [user("One.\n\nTwo.\n\nWho?")]),
    "context, in the question": (
        "prompts",
        {"question": "The horse. Who?", "context": "The horse."},
        [user("The horse. Who?")],
    ),
    "prompt and context": (
        "sft",
        {"prompt": "Who?", "context": "The horse.", "completion": "It."},
        [user("The horse.\n\nWho?"), reply("It.")],
    ),
    "prompt and input": ("prompts", {"prompt": "Sort.", "input": "b a"}, [user("Sort.\n\nb a")]),
    "question and input": (
        "sft",
        {"question": "Sort.", "input": "b a", "answer": "A"},
        [user("Sort.\n\nb a"), reply("A")],
    ),
    "input, a number": (
        "sft",
        {"instruction": "Double.", "input": 2, "output": "4"},
        [user("Double.\n\n2"), reply("4")],
    ),
    "input, null": ("sft", {"instruction": "Q", "input": None, "output": "A"}, QA),
    "input, output": ("sft", {"input": "Q", "output": "A"}, QA),
    "inputs, targets": ("sft", {"inputs": "Q", "targets": "A"}, QA),
    "problem, solution": ("sft", {"problem": "Q", "solution": "A"}, QA),
    "instruction, response": ("sft", {"instruction": "Q", "response": "A"}, QA),
    "prompt, output": ("sft", {"prompt": "Q", "output": "A"}, QA),
    "history, pairs": (
        "sft",
        {"instruction": "Q", "input": "", "output": "A", "history": [["Hi", "Hello"]]},
        [user("Hi"), reply("Hello"), *QA],
    ),
    "history, messages": (
        "prompts",
        {"question": "Q", "history": [user("Hi"), reply("Hello")]},
        [user("Hi"), reply("Hello"), user("Q")],
    ),
    "history, JSON text": (
        "sft",
        {"instruction": "Q", "output": "A", "history": '[["Hi", "Hello"]]'},
        [user("Hi"), reply("Hello"), *QA],
    ),
    "history, empty JSON": ("sft", {"instruction": "Q", "output": "A", "history": "[]"}, QA),
    "history, empty": ("sft", {"instruction": "Q", "output": "A", "history": []}, QA),
    "history and system": (
        "sft",
        {"instruction": "Q", "output": "A", "history": [["Hi", "Hello"]], "system": "Be."},
        [system("Be."), user("Hi"), reply("Hello"), *QA],
    ),
    "system, null": ("sft", {"question": "Q", "answer": "A", "system": None}, QA),
    "system, a number": ("sft", {"question": "Q", "answer": "A", "system": 7}, [system("7"), *QA]),
    "system, twice the same": ("sft", {"messages": [system("Be."), *QA], "system": "Be."}, [system("Be."), *QA]),
    "prompt, a transcript": ("prompts", {"prompt": HH}, HH_TURNS),
    "prompt, a transcript that begins with Human": ("prompts", {"prompt": "Human: Q\n\nAssistant:"}, [user("Q")]),
    "prompt that quotes a transcript": (
        "prompts",
        {"prompt": "It said:\n\nHuman: hi"},
        [user("It said:\n\nHuman: hi")],
    ),
    "transcript, guanaco": ("sft", {"transcript": "### Human: Q### Assistant: A"}, QA),
    # Pairs
    "pair, question": ("preference", {"question": "Q", "chosen": "A", "rejected": "B"}, PAIR),
    "pair, system and question (Orca)": (
        "preference",
        {"system": "Be.", "question": "Q", "chosen": "A", "rejected": "B"},
        [[system("Be."), user("Q")], [reply("A")], [reply("B")]],
    ),
    "pair, input (distilabel)": ("preference", {"input": "Q", "chosen": "A", "rejected": "B"}, PAIR),
    "pair, instruction and context": (
        "preference",
        {"instruction": "Who?", "context": "The horse.", "chosen": "A", "rejected": "B"},
        [[user("Who?\n\nThe horse.")], [reply("A")], [reply("B")]],
    ),
    "pair, the prompt's system message": (
        "preference",
        {"prompt": [system("Be."), user("Q")], "chosen": QA, "rejected": [user("Q"), reply("B")]},
        [[system("Be."), user("Q")], [reply("A")], [reply("B")]],
    ),
    "pair, system in the conversations": (
        "preference",
        {"prompt": "Q", "chosen": [system("Be."), *QA], "rejected": [system("Be."), user("Q"), reply("B")]},
        [[system("Be."), user("Q")], [reply("A")], [reply("B")]],
    ),
    "pair, prompt and transcripts": (
        "preference",
        {"prompt": HH, "chosen": HH + "A", "rejected": HH + "B"},
        [HH_TURNS, [reply("A")], [reply("B")]],
    ),
    "pair, last request and transcripts": (
        "preference",
        {"prompt": "Joke?", "chosen": HH + "A", "rejected": HH + "B"},
        [HH_TURNS, [reply("A")], [reply("B")]],
    ),
    "pair, transcript and replies": (
        "preference",
        {"prompt": HH, "chosen": "A", "rejected": "B"},
        [HH_TURNS, [reply("A")], [reply("B")]],
    ),
    "pair, ShareGPT (LLaMA-Factory)": (
        "preference",
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        PAIR,
    ),
    "pair, rated (UltraFeedback)": (
        "preference",
        {"prompt": "Q", "chosen": QA, "rejected": [user("Q"), reply("B")], "messages": QA, "score_chosen": 8.0},
        PAIR,
    ),
    # KTO
    **{
        f"label, {label!r}": (
            "kto",
            {"prompt": "Q", "completion": "A", "label": label},
            [[user("Q")], [reply("A")], wanted],
        )
        for wanted, labels in {
            True: (True, 1, 1.0, "True", "1", "good", "Desirable", "chosen", "yes"),
            False: (False, 0, "false", "0", "bad", "undesirable", "rejected", "no"),
        }.items()
        for label in labels
    },
    "label, response": ("kto", {"prompt": "Q", "response": "A", "label": True}, [[user("Q")], [reply("A")], True]),
    "label, question": ("kto", {"question": "Q", "answer": "A", "label": 0}, [[user("Q")], [reply("A")], False]),
    "label, messages": ("kto", {"messages": QA, "label": True}, [[user("Q")], [reply("A")], True]),
    "label, completion of messages": (
        "kto",
        {"prompt": [user("Q")], "completion": [reply("A")], "label": "1"},
        [[user("Q")], [reply("A")], True],
    ),
    "label, another's number": ("sft", {"messages": QA, "label": 3}, QA),
    "label, a class": ("sft", {"question": "Q", "answer": "A", "label": "safe"}, QA),
}
# Texts that are JSON, but no messages: alone, in a list, with keys of messages, or a whole conversation as reply.
for _name, _text in {
    "an author": json.dumps({"author": "Jane Austen", "text": "It is"}),
    "an author that is a role": json.dumps({"author": "bot", "text": "It is"}),
    "a sender": json.dumps({"from": "bob@x.com", "message": "Hi"}),
    "a sender and a value": json.dumps({"from": "Berlin", "value": "5"}),
    "further keys": json.dumps({"role": "user", "content": "x", "id": 7}),
    "several": json.dumps([{"author": "bot", "text": "a"}, {"author": "human", "text": "b"}]),
}.items():
    BECOMES[f"JSON reply, {_name}"] = ("sft", {"prompt": "Q", "completion": _text}, [user("Q"), reply(_text)])
    BECOMES[f"JSON request, {_name}"] = ("prompts", {"question": _text}, [user(_text)])
    BECOMES[f"JSON sides, {_name}"] = (
        "preference",
        {"prompt": "Q", "chosen": _text, "rejected": "B"},
        [[user("Q")], [reply(_text)], [reply("B")]],
    )
_TALK = json.dumps([user("hi"), reply("yo")])
BECOMES["JSON reply, a conversation"] = ("sft", {"prompt": "Q", "completion": _TALK}, [user("Q"), reply(_TALK)])
BECOMES["JSON reply, messages of the assistant"] = ("sft", {"prompt": "Q", "completion": json.dumps([reply("A")])}, QA)
BECOMES["JSON sides, conversations"] = (
    "preference",
    {"prompt": "Q", "chosen": json.dumps(QA), "rejected": json.dumps([user("Q"), reply("B")])},
    PAIR,
)
BECOMES["JSON messages, nulls of other columns"] = (
    "prompts",
    {"prompt": json.dumps([{**user("Q"), "name": None, "tool_calls": None}])},
    [user("Q")],
)

# Turns that hold a request and its reply, by all names; pairs whose prompt column holds more, and white space.
for _asked, _replied in [
    ("question", "answer"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("query", "completion"),
]:
    BECOMES[f"turns, {_asked} and {_replied}"] = ("sft", {"conversation": [{_asked: "Q", _replied: "A"}] * 2}, QA * 2)
BECOMES["turns, instruction, input and output"] = (
    "sft",
    {"conversation": [{"instruction": "Sort.", "input": "b a", "output": "a b"}]},
    [user("Sort.\n\nb a"), reply("a b")],
)
BECOMES["turns, the same system in each (xtuner)"] = (
    "sft",
    {"conversation": [{"system": "Be.", "input": "Q", "output": "A"}] * 3},
    [system("Be."), *QA * 3],
)
BECOMES["history, texts in turn"] = (
    "sft",
    {"instruction": "Q", "output": "A", "history": ["Hi", "Hello"]},
    [user("Hi"), reply("Hello"), *QA],
)
BECOMES["system, twice the same but for white space"] = (
    "sft",
    {"messages": [system("Be."), *QA], "system": " Be.\n"},
    [system("Be."), *QA],
)
BECOMES["pair, conversations as texts"] = (
    "preference",
    {"question": "Q", "chosen": ["Q", "A"], "rejected": ["Q", "B"]},
    PAIR,
)
BECOMES["pair, prompts that differ in white space"] = (
    "preference",
    {"chosen": QA, "rejected": [user("Q "), reply("B")]},
    PAIR,
)
EARLIER = [user("Hi"), reply("Hello")]
BECOMES["pair, earlier turns in the prompt alone"] = (
    "preference",
    {"prompt": [system("Be."), *EARLIER, user("Q")], "chosen": QA, "rejected": [user("Q"), reply("B")]},
    [[system("Be."), *EARLIER, user("Q")], [reply("A")], [reply("B")]],
)
BECOMES["pair, history beside conversations"] = (
    "preference",
    {"prompt": "Q", "history": [["Hi", "Hello"]], "chosen": QA, "rejected": [user("Q"), reply("B")]},
    [[*EARLIER, user("Q")], [reply("A")], [reply("B")]],
)
BECOMES["replies of a pair, numbers"] = (
    *BECOMES["replies of a pair, numbers"][:2],
    [[user("Q")], [reply("1")], [reply("2")]],
)

IMAGE = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Q"}]
# name -> (kind, row, reason)
DROPPED = {
    "reply, true": ("sft", {"question": "Q", "answer": True}, "answer is true or false, not text"),
    "reply, null": ("sft", {"question": "Q", "answer": None}, "answer is missing"),
    "reply, NaN": ("sft", {"question": "Q", "answer": float("nan")}, "answer is missing"),
    "reply, infinite": ("sft", {"question": "Q", "answer": float("inf")}, "a number is not finite"),
    "reply, an empty list": ("sft", {"question": "Q", "answer": []}, "answer is empty"),
    "reply, several texts": ("sft", {"question": "Q", "answer": ["A", "B"]}, "answer is a list, not text"),
    "reply, an object": ("sft", {"question": "Q", "answer": {"a": 1}}, "answer is an object, not text"),
    "reply, nested lists": ("sft", {"question": "Q", "answer": [["A"], ["B"]]}, "answer is a list, not text"),
    "reply, the number of a choice": (
        "sft",
        {"question": "Q", "choices": ["A", "B"], "answer": 1},
        "answer is the number of a choice, not its text",
    ),
    "request, an object": ("prompts", {"question": {"a": 1}}, "question is an object, not text"),
    "request, true": ("prompts", {"prompt": False}, "prompt is true or false, not text"),
    "text, a list": ("text", {"text": ["a", "b"]}, "text is a list, not text"),
    "messages, empty text": ("sft", {"messages": ""}, "the conversation is empty"),
    "messages, plain text": ("sft", {"messages": "hello"}, "the conversation is text, not a list of messages"),
    "messages, a Python literal": (
        "sft",
        {"messages": str(QA)},
        "the conversation is text that is not JSON (single quotes?)",
    ),
    "messages, broken JSON": ("sft", {"messages": '[{"role": "user"'}, "the conversation is text that is not JSON"),
    "messages, a number": ("sft", {"messages": 5}, "the conversation is not a list"),
    "messages, an empty object": ("sft", {"messages": {}}, "the conversation is empty"),
    "messages, texts and messages": ("sft", {"messages": ["Q", reply("A")]}, "a message is text, without a role"),
    "messages, numbers": ("sft", {"messages": [1, 2]}, "a message is not a mapping"),
    "message, no content": ("sft", {"messages": [user("Q"), {"role": "assistant"}]}, "a message has no content"),
    "message, no role": ("sft", {"messages": [{"content": "Q"}, reply("A")]}, "a message has no role"),
    "message, a role that is a list": (
        "sft",
        {"messages": [{"role": ["user"], "content": "Q"}]},
        "a message's role is not text",
    ),
    "message, a role that is a number": (
        "sft",
        {"messages": [{"role": 1, "content": "Q"}]},
        "a message's role is not text",
    ),
    "message, an unknown role": (
        "sft",
        {"messages": [user("Q"), {"role": "judge", "content": "A"}]},
        "a message has an unknown role",
    ),
    "message, content of an object": (
        "sft",
        {"messages": [user({"a": 1}), reply("A")]},
        "a message's content is an object, not text",
    ),
    "message, content true": (
        "sft",
        {"messages": [user("Q"), reply(True)]},
        "a message's content is true or false, not text",
    ),
    "message, an image": ("sft", {"messages": [user(IMAGE), reply("A")]}, "images"),
    "message, a tool's result": (
        "sft",
        {"messages": [user([{"type": "tool_result", "text": "Q"}]), reply("A")]},
        "tools or function calls",
    ),
    "a system message in the middle": (
        "sft",
        {"messages": [user("Q"), system("Be."), reply("A")]},
        "a system message after the first turn",
    ),
    "first a reply": ("sft", {"messages": [reply("Hi"), *QA]}, "the first turn is a reply"),
    "prompt that ends with a reply": ("sft", {"prompt": QA, "completion": "B"}, "the prompt ends with a reply"),
    "functions": ("sft", {"messages": QA, "functions": [{"name": "f"}]}, "tools or function calls"),
    "input, a list": ("sft", {"instruction": "Q", "input": ["a", "b"], "output": "A"}, "input is a list, not text"),
    "input, an object": ("prompts", {"instruction": "Q", "input": {"a": 1}}, "input is an object, not text"),
    "system, an object": ("sft", {"question": "Q", "answer": "A", "system": {"a": 1}}, "system is an object, not text"),
    "system, two": (
        "sft",
        {"question": "Q", "answer": "A", "system": "Be.", "system_prompt": "Do."},
        "two system messages",
    ),
    "context, an object": (
        "prompts",
        {"question": "Q", "context": {"titles": ["a"]}},
        "context is an object, not text",
    ),
    "history, text": ("sft", {"instruction": "Q", "output": "A", "history": "Hi"}, "history is not a list of turns"),
    "history, an odd number of texts": (
        "sft",
        {"instruction": "Q", "output": "A", "history": ["Hi", "Hello", "So"]},
        "history is not a list of turns",
    ),
    "turns, two requests": (
        "sft",
        {"conversation": [{"question": "Q", "prompt": "P", "answer": "A"}]},
        "a turn has several requests or replies",
    ),
    "history, triples": (
        "sft",
        {"instruction": "Q", "output": "A", "history": [["a", "b", "c"]]},
        "history is not a list of turns",
    ),
    "pair, true and false": (
        "preference",
        {"prompt": "Q", "chosen": True, "rejected": False},
        "chosen is true or false, not text",
    ),
    "pair, an object": (
        "preference",
        {"prompt": "Q", "chosen": {"a": 1}, "rejected": "B"},
        "chosen is an object, not text",
    ),
    "label, another number": ("kto", {"prompt": "Q", "completion": "A", "label": 2}, "label is neither true nor false"),
    "label, a word": ("kto", {"prompt": "Q", "completion": "A", "label": "maybe"}, "label is neither true nor false"),
    "label, empty": ("kto", {"prompt": "Q", "completion": "A", "label": ""}, "label is missing"),
    "label, a list": ("kto", {"prompt": "Q", "completion": "A", "label": [True]}, "label is neither true nor false"),
    "unwanted, 0": ("sft", {"prompt": "Q", "completion": "A", "label": 0}, "the completion is labelled as unwanted"),
    "unwanted, text": (
        "sft",
        {"prompt": "Q", "completion": "A", "label": "False"},
        "the completion is labelled as unwanted",
    ),
    "unwanted, a word": (
        "sft",
        {"question": "Q", "answer": "A", "label": "bad"},
        "the completion is labelled as unwanted",
    ),
}


@pytest.mark.parametrize(("kind", "row", "expected"), BECOMES.values(), ids=BECOMES)
def test_rows_that_are_read(kind, row, expected):
    found, report = converted([row], kind)
    assert [messages_of(kind, one) for one in found] == [expected] and report.dropped == {}


GOOD = {
    "text": {"text": "a"},
    "sft": {"messages": QA},
    "preference": {"chosen": QA, "rejected": [user("Q"), reply("B")]},
    "prompts": {"messages": [user("Q")]},
    "kto": {"prompt": "Q", "completion": "A", "label": True},
}


@pytest.mark.parametrize(("kind", "row", "reason"), DROPPED.values(), ids=DROPPED)
def test_rows_that_are_dropped(kind, row, reason):
    """Alone they leave no row, which is a user's mistake that names the reason."""
    with pytest.raises(UserError, match="No row can be used") as error:
        convert(table([row, row]), kind)
    assert f"2 {reason}" in str(error.value)


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_unusable_rows(kind, block, monkeypatch):
    """Wherever unusable rows stand, with a further column, the same rows are left."""
    monkeypatch.setattr(formats, "CONVERTED_ROWS", block)
    good = GOOD[kind]
    bad = dict.fromkeys(good)
    for order in ([good] * 4 + [bad] * 4, [bad] * 4 + [good] * 4, [bad] * 3 + [good] + [bad] * 3):
        rows = [{**row, "place": place, "nested": {"a": [place]}} for place, row in enumerate(order)]
        found, report = converted(rows, kind, keep=None)
        assert [row["place"] for row in found] == [place for place, row in enumerate(order) if row is good]
        assert [row["nested"] for row in found] == [{"a": [row["place"]]} for row in found]
        assert sum(report.dropped.values()) == order.count(bad)


@pytest.mark.parametrize("neighbour", [3.5, "x", None, 8, [1]])
def test_the_text_of_a_number_does_not_depend_on_other_rows(neighbour, tmp_path):
    """Among fractions a reader of files holds 7 as 7.0, beside texts as 7."""
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"question": "Q", "answer": answer}) + "\n" for answer in (7, neighbour))
    )
    rows, _ = convert(load_source(str(tmp_path / "rows.jsonl"), kind="sft"), "sft")
    assert rows[0] == {"messages": [user("Q"), reply("7")]}


def test_what_a_conversion_changes_is_counted():
    rows = [
        {"messages": [user("a"), user("b"), reply("A")]},
        {"messages": [user("a"), reply(4)]},
        {"messages": [system(" "), user("a"), reply("A")]},
        {"messages": QA},
    ]
    _, report = converted(rows, "sft")
    assert report.changed == {
        "rows with merged turns of one role": 1,
        "rows with numbers read as text": 1,
        "rows with an empty system message left out": 1,
    }
    assert "; rows with numbers read as text: 1" in str(report)


def test_values_that_are_not_understood_are_named():
    rows = [{"prompt": "Q", "completion": "A", "label": label} for label in ("good", "maybe", "perhaps", "maybe")]
    _, report = converted(rows, "kto")
    assert report.seen == {"label is neither true nor false": ["'maybe'", "'perhaps'"]}
    assert "'maybe', 'perhaps'" in str(report)


@pytest.mark.parametrize("labels", [[1, 2, 3, 4, 5], [0, 1, 2], ["1", "5"], [0.0, 0.5, 1.0]])
def test_ratings_are_no_labels(labels):
    """1 is the worst of five stars, and not `true`."""
    rows = [{"prompt": "Q", "completion": "A", "label": label} for label in labels]
    with pytest.raises(UserError, match=f"{len(labels)} label is neither true nor false"):
        convert(table(rows), "kto")
    assert len(converted(rows, "sft")[0]) == len(labels), "in SFT such a column does not judge the reply"


def test_columns_that_change_the_meaning_and_are_not_read_are_counted():
    rows = [
        {"prompt": [user("Q")], "context": "It.", "choices": ["A", "B"]},
        {"prompt": [user("It.\n Q A B")], "context": "It."},
    ]
    _, report = converted(rows, "prompts", keep=None)
    assert report.unread == {"context": 1, "choices": 1}
    rows = [{"question": "Who?", "context": "The horse.", "input": 2.0}, {"question": HH}, {"question": json.dumps(QA)}]
    rows += [{"question": "Q", "history": [["Hi", "Hello"]]}, {"question": "Q", "system": 7, "choices": []}]
    for row in rows:
        _, report = converted([row], "prompts", keep=None)
        assert report.unread == {}


PASSAGE_COLUMNS = ["article", "support", "story", "definition", "schema", "evidence", "table", "premise", "input_text"]
PASSAGE_COLUMNS += ["knowledge", "text", "starter_code", "Context", "Passage", " Article", "SYSTEM", "passage"]


@pytest.mark.parametrize("name", PASSAGE_COLUMNS)
def test_what_a_request_is_about_is_never_left_out_without_a_word(name):
    rows = [{"question": "Q?", "answer": "A", name: text} for text in ("The horse sleeps.", None, "", "Q? A")]
    assert converted(rows, "sft")[1].unread == {name: 1}
    assert converted(rows, "prompts", keep=None)[1].unread == {name: 1}


def test_a_column_that_holds_the_whole_row_in_another_form_is_not_missed():
    """As `text` of Alpaca, and OpenAI's preferences, whose further values are true and false."""
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "text": "Below: Add.\n\n1 2\n### Response: 3"}
    assert converted([row], "sft")[1].unread == {}
    row = {"input": {"messages": [user("Q")], "tools": [], "parallel_tool_calls": True}, "prompt": [user("Q")]}
    assert converted([row], "prompts")[1].unread == {}


def test_a_prompt_other_than_that_of_the_conversations_is_counted():
    pair = {"chosen": [user("X"), reply("Y"), *QA], "rejected": [user("X"), reply("Y"), user("Q"), reply("B")]}
    for prompt, count in [
        ("Q", 0),
        ("X", 0),
        ("Z", 1),
        ([user("Z"), reply("Y"), user("Q")], 1),
        ([system("Be."), user("Q")], 0),
    ]:
        report = converted([{"prompt": prompt, **pair}], "preference")[1]
        assert report.changed.get(OTHER_PROMPT, 0) == count, prompt
    report = converted([{"chosen": QA, "rejected": [user(" Q"), reply("B")]}], "preference")[1]
    assert sum(report.changed.values()) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("extension", ["jsonl", "json", "ndjson"])
@pytest.mark.parametrize(
    "row",
    [
        {"source": "s", "conversation": [{"input": "Hi", "output": "Hello"}, {"input": "Q", "output": "A"}]},
        {"conversations": [{"human": "Hi", "assistant": "Hello"}, {"human": "Q", "assistant": "A"}]},
    ],
)
def test_a_file_of_one_row_is_read_as_one_of_several(row, extension, count, tmp_path):
    (tmp_path / f"rows.{extension}").write_text((json.dumps(row) + "\n") * count)
    rows, _ = convert(load_source(str(tmp_path / f"rows.{extension}"), kind="sft"), "sft")
    assert rows.to_list() == [{"messages": [user("Hi"), reply("Hello"), *QA]}] * count


RESERVED = [
    "completions",
    "prompts",
    "completion_ids",
    "completion",
    "trainer_state",
    "log_metric",
    "log_extra",
    "self",
    "environments",
]


@pytest.mark.parametrize("name", RESERVED)
def test_columns_named_like_an_argument_of_reward_functions_are_left_out(name):
    rows = [{"prompt": "Q", name: "x", "answer": "7"}]
    found, report = converted(rows, "prompts", keep=None)
    assert found == [{"prompt": [user("Q")], "answer": "7"}]
    assert name in report.notes[0] and f"columns: {{{name}: " in report.notes[0]
    found, report = converted(rows, "prompts", keep=None, columns={name: "other"})
    assert found == [{"prompt": [user("Q")], "other": "x", "answer": "7"}] and report.notes == []


def test_nested_text_that_looks_like_json_stays_text(tmp_path):
    """The answers "7", "null" and "[1]" of a file are texts."""
    answers = ["7", "null", "[1]", "007", "true"]
    rows = [{"prompt": "Q", "reward_model": {"ground_truth": answer, "style": "rule"}} for answer in answers]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = load_source(str(tmp_path / "rows.jsonl"), kind="prompts")
    found, _ = convert(source, "prompts", keep=None, columns={"reward_model.ground_truth": "answer"})
    assert found["answer"][:] == answers


NESTED = [{"prompt": "Q", "reward_model": {"style": "rule", "ground_truth": "7"}, "extra": {"a": {"b": 1}}}] * 2


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"reward_model.ground_truth": "answer"}, {"answer": "7"}),
        ({"reward_model.ground_truth": "answer", "reward_model.style": "rule"}, {"answer": "7", "rule": "rule"}),
        ({"extra.a.b": "depth"}, {"depth": 1}),
    ],
)
@pytest.mark.parametrize("make", [Dataset.from_list, table])
def test_dotted_paths_name_nested_values(columns, expected, make):
    found, _ = convert(make(NESTED), "prompts", keep=list(expected), columns=columns)
    assert found.to_list() == [{"prompt": [user("Q")], **expected}] * 2


def test_dotted_paths_give_recognised_columns():
    rows = [{"data": {"q": "Q", "turns": [{"text": "A"}]}}, {"data": {"q": "Q", "turns": []}}, {"data": None}]
    found, report = converted(rows, "sft", columns={"data.q": "question", "data.turns.0.text": "answer"})
    assert found == [{"messages": QA}] and report.dropped == {"answer is missing": 1, "question is missing": 1}


def test_a_column_with_a_dot_in_its_name_wins():
    rows = [{"a.b": "Q", "a": {"b": "no"}, "answer": "A"}]
    assert converted(rows, "sft", columns={"a.b": "question"})[0] == [{"messages": QA}]


@pytest.mark.parametrize("column", ["data.x", "data.q.x", "dta.q", "data.", "."])
def test_paths_that_lead_nowhere_are_errors(column):
    with pytest.raises(UserError, match="columns that the data set does not have"):
        converted([{"data": {"q": "Q"}, "answer": "A"}], "sft", columns={column: "question"})


@pytest.mark.parametrize("name", ["", " ", "\ud800", "a\x00b", 3, None])
def test_names_that_no_column_can_have_are_errors(name):
    with pytest.raises(UserError, match="a name that none can have"):
        converted([{"prompt": "Q", "completion": "A", "label": 1}], "sft", columns={"label": name})


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
@pytest.mark.parametrize("names", [["a\x00b"], ["\U00080273\x00{ì", "\U00080273\x00x"], ["prompt\x00"]])
def test_null_bytes_in_names_are_errors(names, extension, tmp_path):
    row = dict.fromkeys([*names, "prompt"], "x")
    text = json.dumps(row) + "\n" if extension == "jsonl" else f"{','.join(row)}\n{','.join(row.values())}\n"
    (tmp_path / f"rows.{extension}").write_text(text * (1 + (extension == "jsonl")))
    with pytest.raises(UserError, match="null byte in its name"):
        load_source(str(tmp_path / f"rows.{extension}"), kind="prompts")


def test_a_column_that_is_replaced_is_named():
    _, report = converted([{"text": "title", "body": "story"}], "text", columns={"body": "text"})
    assert "`text`" in report.notes[0] and "`body`" in report.notes[0]


# kind, rows, the mapping that is proposed
ADVICE = {
    "other names": ("sft", [{"id": 1, "q": "Q", "a": "A"}], {"q": "question", "a": "answer"}),
    "capitals": ("sft", [{"Question": "Q", "Answer": "A"}], {"Question": "question", "Answer": "answer"}),
    "spaces": ("sft", [{"question ": "Q", " answer": "A"}], {"question ": "question", " answer": "answer"}),
    "a conversation by content": ("sft", [{"id": "x", "chat": QA}], {"chat": "messages"}),
    "texts in turn": ("sft", [{"dialog": ["Q", "A"], "act": ["1", "2"]}], {"dialog": "messages"}),
    "JSON text by content": ("sft", [{"id": "x", "dialog": json.dumps(QA)}], {"dialog": "messages"}),
    "guanaco": ("sft", [{"text": "### Human: Q\n### Assistant: A"}], {"text": "transcript"}),
    "hh in text": ("sft", [{"text": HH + "A"}], {"text": "transcript"}),
    "half recognised": ("sft", [{"question": "Q", "final_answer": "A", "id": "7"}], {"final_answer": "answer"}),
    "nested": (
        "sft",
        [{"data": {"question": "Q", "answer": "A"}, "id": 1}],
        {"data.question": "question", "data.answer": "answer"},
    ),
    "text": ("text", [{"id": "7", "body": "A long story."}], {"body": "text"}),
    "pairs": ("preference", [{"prompt": "Q", "winner": "A", "loser": "B"}], {"winner": "chosen", "loser": "rejected"}),
    "pairs, suffixes": (
        "preference",
        [{"prompt": "Q", "chosen_response": "A", "rejected_response": "B"}],
        {"chosen_response": "chosen", "rejected_response": "rejected"},
    ),
    "prompts": ("prompts", [{"id": "7", "user_prompt": "Q"}], {"user_prompt": "prompt"}),
    "kto": ("kto", [{"prompt": "Q", "completion": "A", "kto_tag": True}], {"kto_tag": "label"}),
    "correct, not incorrect": (
        "sft",
        [{"question": "Q", "incorrect_answer": "B", "correct_answer": "A"}],
        {"correct_answer": "answer"},
    ),
    "accepted, not rejected": (
        "sft",
        [{"query": "Q", "rejected_response": "B", "accepted_response": "A"}],
        {"query": "question", "accepted_response": "answer"},
    ),
    "good, not bad": (
        "sft",
        [{"user": "Q", "bad_answer": "B", "good_answer": "A"}],
        {"user": "question", "good_answer": "answer"},
    ),
    "the system's instruction is no question": (
        "sft",
        [{"user_query": "Q", "retrieved_context": "P", "model_response": "A", "system_instruction": "Be."}],
        {
            "user_query": "question",
            "model_response": "answer",
            "system_instruction": "system",
            "retrieved_context": "context",
        },
    ),
    "capitals, with input": (
        "sft",
        [{"Instruction": "Q", "Input": "x", "Output": "A"}],
        {"Instruction": "question", "Output": "answer", "Input": "input"},
    ),
    "capitals, with context and system": (
        "sft",
        [{"Question": "Q", "Context": "P", "System": "Be.", "Answer": "A"}],
        {"Question": "question", "Answer": "answer", "System": "system", "Context": "context"},
    ),
}


@pytest.mark.parametrize(("kind", "rows", "columns"), ADVICE.values(), ids=ADVICE)
def test_advice_is_a_mapping_that_works(kind, rows, columns):
    with pytest.raises(UserError, match="not recognised") as error:
        convert(table(rows), kind)
    mapping = ", ".join(
        f"{json.dumps(name) if name != name.strip() else name}: {ours}" for name, ours in columns.items()
    )
    assert f"`columns: {{{mapping}}}`" in str(error.value)
    assert len(converted(rows, kind, columns=columns)[0]) == 1


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("sft", {"text": "plain words"}),
        ("sft", {"id": 1, "score": 0.5}),
        ("sft", {"goal": "Q", "sol1": "A", "sol2": "B", "label": 0}),
        ("preference", {"prompt": "Q", "response_a": "A", "response_b": "B", "winner": "a"}),
        ("kto", {"prompt": "Q", "completion": "A"}),
        ("preference", {"prompt": "Q", "preferred": "A", "not_preferred": "B"}),
        ("preference", {"prompt": "Q", "unpreferred": "B", "dispreferred": "C"}),
        ("kto", {"prompt": "Q", "completion": "A", "not_good": True}),
        ("kto", {"prompt": "Q", "completion": "A", "undesirable": True}),
        ("kto", {"prompt": "Q", "completion": "A", "spam_label": True}),
        ("kto", {"prompt": "Q", "completion": "A", "toxic_tag": 1}),
        ("sft", {"q": "Q", "wrong_answer": "B", "gold": "A"}),
        ("sft", {"question": "Q", "choices": ["A", "B"], "answerKey": "A"}),
        ("sft", {"question": "Q", "options": ["a", "b"], "correct_answer": "B"}),
        ("sft", {"question": "Q", "first_answer": "A", "second_answer": "B"}),
        ("prompts", {"system_prompt_text": "Be.", "negative_prompt": "B"}),
    ],
)
def test_no_mapping_is_proposed_without_a_reason(kind, row):
    with pytest.raises(UserError, match="not recognised") as error:
        convert(table([row] * 3), kind)
    proposed = re.findall(r"[{,] ?\w+: ([^,}]+)", str(error.value.fix))  # a mapping to complete has ??? alone
    assert set(proposed) <= {'"???"'}


@pytest.mark.parametrize(
    ("kind", "row", "columns"),
    [
        ("sft", {"prompt": "Q", "completion": "A"}, {"prompt": "promptt"}),
        ("sft", {"q": "Q", "a": "A"}, {"q": "question"}),
        ("sft", {"q": "Q", "a": "A", "n": 7}, {"q": "qestion", "n": "number"}),
        ("preference", {"p": "Q", "winner": "A", "loser": "B"}, {"winner": "chosen", "p": "prompt"}),
        ("kto", {"p": "Q", "reply": "A", "kto_tag": True}, {"p": "prompt", "reply": "answr"}),
    ],
)
def test_advice_takes_the_place_of_a_mapping_that_fails(kind, row, columns):
    """It has the names of the file, and keeps what the recipe maps to recognised columns."""
    with pytest.raises(UserError, match="not recognised") as error:
        convert(table([row]), kind, columns=columns)
    advice = yaml.safe_load(str(error.value).rpartition("`columns: ")[2].partition("`")[0])
    assert {theirs: ours for theirs, ours in columns.items() if ours in READ_COLUMNS}.items() <= advice.items()
    assert len(converted([row], kind, columns=advice)[0]) == 1


VALUES = [
    None,
    "",
    "Q",
    " \n",
    0,
    1,
    -3,
    2.5,
    float("nan"),
    float("inf"),
    2**53 + 1,
    True,
    False,
    [],
    {},
    ["a"],
    ["a", 1],
    [[]],
    {"a": None},
    "[]",
    "{}",
    "[1",
]
VALUES += [
    QA,
    QA[:1],
    QA[1:],
    json.dumps(QA),
    HH,
    HH + "A",
    [None],
    [{}],
    [{"role": None}],
    [{"role": "user", "content": []}],
]
VALUES += [
    [{"from": 1, "value": 2}],
    {"role": ["x"], "content": "y"},
    {"from": [1], "value": ["x", "y"]},
    [{"human": 1, "gpt": None}],
]
COLUMNS = [
    "text",
    "messages",
    "conversations",
    "prompt",
    "completion",
    "label",
    "question",
    "answer",
    "instruction",
    "input",
    "output",
]
COLUMNS += [
    "instances",
    "chosen",
    "rejected",
    "transcript",
    "system",
    "system_prompt",
    "context",
    "history",
    "choices",
    "tools",
    "margin",
]


@pytest.mark.parametrize("draws", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_whatever_a_row_holds_it_is_counted(draws):
    """Read = kept + dropped for values of any type in any column; anything else is a user's mistake."""
    draw, outcomes = random.Random(0), {"read": 0, "refused": 0}
    for _ in range(draws):
        names = draw.sample(COLUMNS, draw.randint(1, 6))
        rows = [{name: draw.choice(VALUES) for name in names} for _ in range(6)]
        for kind in KINDS:
            try:
                found, report = convert(table(rows), kind, keep=None)
            except UserError:
                outcomes["refused"] += 1
                continue
            outcomes["read"] += 1
            assert report.rows == len(rows) and report.read == report.kept + sum(report.dropped.values())
            assert report.kept == len(found)
            for row in found.select_columns(list(KINDS[kind])).to_list():
                turns = [turn for name in KINDS[kind] if isinstance(row[name], list) for turn in row[name]]
                assert all(turn["content"].strip() for turn in turns)
    assert min(outcomes.values()) > draws / 10


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_values_a_format_has_its_rows_are_read_or_refused(kind):
    """The same of every recognised set of columns, by the row functions alone."""
    draw = random.Random(kind)
    for format in FORMATS[kind]:
        for _ in range(20):
            names = {*format, *draw.sample(COLUMNS, 2)}
            row = Row({name: draw.choice([*VALUES, "A", QA]) for name in sorted(names)})
            if LABEL in row:
                row[LABEL] = draw.choice([True, False])
            for found in canonical_rows_of(row, kind, format):
                assert isinstance(found, Unusable) or list(found) == list(KINDS[kind])
