"""The recognised sets of columns for each kind of data, and the functions that convert their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alignment.data.reading.conversations import (
    BEYOND_TEXT,
    Row,
    Unusable,
    check_turns,
    message,
    read_messages,
    read_prompt,
    read_reply,
    read_transcript,
    text_of,
)
from alignment.tokenization.chat_format import Messages

CONVERSATIONS, LABELLED = "sft", "kto"  # kinds of rows: messages; single replies with a label
KINDS = {
    "text": ("text",),
    "sft": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "kto": ("prompt", "completion", "label"),
}


def text_row(row: Row, column: str) -> dict[str, Any]:
    return {"text": text_of(row, column)}


def sft_row(row: Row, conversation: Messages) -> dict[str, Any]:
    """Convert a conversation that ends with a reply; replies that are labelled as bad are dropped."""
    if row.get("label") is False:
        raise Unusable("the completion is labelled as unwanted")
    return {"messages": check_turns(_with_system(row, conversation), "assistant")}


def prompts_row(row: Row, conversation: Messages) -> dict[str, Any]:
    """Convert a conversation to a prompt, without a final assistant turn."""
    request = conversation[:-1] if conversation[-1]["role"] == "assistant" else conversation
    if not request:
        raise Unusable("there is no request")
    return {"prompt": check_turns(_with_system(row, request), "user")}


def preference_row(row: Row) -> dict[str, Any]:
    """Convert a prompt and two replies to it, or two whole conversations with the same prompt."""
    chosen, rejected = _side(row, "chosen"), _side(row, "rejected")
    if chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":
        # Whole conversations: the prompt is their common beginning. (It may also be in a prompt column.)
        if chosen[:-1] != rejected[:-1]:
            raise Unusable("chosen and rejected answer different prompts")
        prompt, chosen, rejected = chosen[:-1], chosen[-1:], rejected[-1:]
    else:
        prompt = read_prompt(row.get("prompt"))
    prompt = _with_system(row, prompt)
    check_turns(prompt + chosen, "assistant")
    check_turns(prompt + rejected, "assistant")
    if len(chosen) != 1 or len(rejected) != 1:
        raise Unusable("a reply has several turns")
    if chosen[0]["content"].strip() == rejected[0]["content"].strip():
        raise Unusable("chosen and rejected are the same")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def kto_row(row: Row) -> dict[str, Any]:
    """Convert a prompt, a reply to it, and whether the reply is good: true or false, or 1 or 0."""
    prompt, completion = _with_system(row, read_prompt(row["prompt"])), read_reply(row, "completion")
    if row["label"] not in (True, False):
        raise Unusable("label is missing" if row["label"] is None else "label is not true or false")
    check_turns(prompt + completion, "assistant")
    if len(completion) != 1:
        raise Unusable("a reply has several turns")
    return {"prompt": prompt, "completion": completion, "label": bool(row["label"])}


def _with_system(row: Row, conversation: Messages) -> Messages:
    """Return the conversation with the system message of a separate column, if there is one, in front."""
    system = row.get("system") or row.get("system_prompt")
    if not isinstance(system, str) or not system.strip() or conversation[:1] == [message("system", system)]:
        return conversation
    if conversation and conversation[0]["role"] == "system":
        raise Unusable("two system messages")
    return [message("system", system), *conversation]


def _side(row: Row, column: str) -> Messages:
    """Convert one side of a pair: with a prompt a string is the reply, otherwise it is a whole transcript."""
    if isinstance(row[column], str) and row.get("prompt") is None:
        return read_transcript(row[column])
    return read_reply(row, column)


def _question(row: Row, column: str = "question") -> Messages:
    return [message("user", text_of(row, column))]


def _instruction(row: Row) -> Messages:
    request, given = text_of(row, "instruction"), row.get("input")
    return [message("user", f"{request}\n\n{given}" if isinstance(given, str) and given.strip() else request)]


# Rows that hold several ---------------------------------------------------------------------------------------------


def instances_of(row: Row) -> list[Row]:
    """Expand an instruction with several instances, as in self-instruct, to a row for each instance."""
    instances = row["instances"]
    if not isinstance(instances, list) or not instances:
        raise Unusable("there are no instances")
    if not all(isinstance(instance, Mapping) for instance in instances):
        raise Unusable("an instance is not a mapping")
    return [{**row, "input": instance.get("input"), "output": instance.get("output")} for instance in instances]


def both_of(row: Row) -> list[Row]:
    """Expand a pair to two rows: a good and a bad reply to its prompt."""
    pair = preference_row(row)
    return [{"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"} for side in SIDES]


SIDES = ("chosen", "rejected")
EXPANSIONS: dict[tuple[str, tuple[str, ...]], Callable[[Row], list[Row]]] = {
    ("sft", ("instruction", "instances")): instances_of,
    ("prompts", ("instruction", "instances")): instances_of,
    ("kto", ("prompt", "chosen", "rejected")): both_of,
    ("kto", ("chosen", "rejected")): both_of,
}


# The recognised formats of each kind, in order of preference: columns -> row function.
FORMATS: dict[str, dict[tuple[str, ...], Callable[[Row], dict[str, Any]]]] = {
    "text": {
        ("text",): lambda row: text_row(row, "text"),
        ("content",): lambda row: text_row(row, "content"),
    },
    "sft": {
        ("messages",): lambda row: sft_row(row, read_messages(row["messages"])),
        ("conversations",): lambda row: sft_row(row, read_messages(row["conversations"])),
        ("prompt", "completion"): lambda row: sft_row(row, read_prompt(row["prompt"]) + read_reply(row, "completion")),
        ("prompt", "response"): lambda row: sft_row(row, read_prompt(row["prompt"]) + read_reply(row, "response")),
        ("instruction", "output"): lambda row: sft_row(row, _instruction(row) + read_reply(row, "output")),
        ("instruction", "instances"): lambda row: sft_row(row, _instruction(row) + read_reply(row, "output")),
        ("question", "answer"): lambda row: sft_row(row, _question(row) + read_reply(row, "answer")),
        ("query", "response"): lambda row: sft_row(row, _question(row, "query") + read_reply(row, "response")),
        ("transcript",): lambda row: sft_row(row, read_transcript(text_of(row, "transcript"))),
    },
    "preference": {
        ("prompt", "chosen", "rejected"): preference_row,
        ("chosen", "rejected"): preference_row,
    },
    "prompts": {
        ("prompt",): lambda row: prompts_row(row, read_prompt(row["prompt"])),
        ("instruction", "instances"): lambda row: prompts_row(row, _instruction(row)),
        ("instruction",): lambda row: prompts_row(row, _instruction(row)),
        ("question",): lambda row: prompts_row(row, _question(row)),
        ("query",): lambda row: prompts_row(row, _question(row, "query")),
        ("messages",): lambda row: prompts_row(row, read_messages(row["messages"])),
        ("conversations",): lambda row: prompts_row(row, read_messages(row["conversations"])),
        ("chosen",): lambda row: prompts_row(row, _side(row, "chosen")),
        ("transcript",): lambda row: prompts_row(row, read_transcript(text_of(row, "transcript"))),
    },
    "kto": {
        ("prompt", "completion", "label"): kto_row,
        ("prompt", "chosen", "rejected"): kto_row,
        ("chosen", "rejected"): kto_row,
    },
}
# Further columns that row functions read.
OPTIONAL_COLUMNS = {
    "sft": ("input", "system", "system_prompt"),
    "preference": ("system", "system_prompt"),
    "prompts": ("input", "system", "system_prompt"),
    "kto": ("system", "system_prompt"),
}
READ_COLUMNS = {
    *("prompt", "label", *BEYOND_TEXT),
    *(name for names in OPTIONAL_COLUMNS.values() for name in names),
    *(name for formats in FORMATS.values() for columns in formats for name in columns),
}
