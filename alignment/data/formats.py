"""Recognise a data set's columns and convert its rows to one of four kinds.

    text        {text}
    sft         {messages}
    preference  {prompt, chosen, rejected}   each a list of messages; chosen and rejected hold one reply
    prompts     {prompt}                     a list of messages that waits for a reply

A message is {"role": "system" | "user" | "assistant", "content": str}. A conversation may begin with a system message;
then user and assistant take turns. Rows that cannot be made into this are dropped, counted by reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, Features

Row = Mapping[str, Any]
Messages = list[dict[str, str]]

KINDS = {
    "text": ("text",),
    "sft": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
}
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
ROLES = ("system", "user", "assistant")
TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):")


class Unusable(Exception):
    """Why a row is dropped; the reason is counted and reported."""


@dataclass
class Report:
    """What became of the rows of a source."""

    kind: str
    format: str
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = "; ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
        lost = f"{self.read - self.kept} dropped" + (f" ({reasons})" if reasons else "")
        return f"{self.read} rows read as {self.kind} from {self.format}, {self.kept} kept, {lost}"


def convert(
    dataset: Dataset, kind: str, *, columns: Mapping[str, str] | None = None, keep: Sequence[str] | None = ()
) -> tuple[Dataset, Report]:
    """The rows of `dataset` as `kind`, and a report of what was dropped.

    `columns` maps their column names to the recognised ones and is applied first. The columns in `keep` come along
    where the data set has them (a canonical column of that name wins).
    """
    from datasets import Dataset

    dataset = rename_columns(dataset, columns or {})
    format = recognise(dataset.column_names, kind, mapped=(columns or {}).values())
    convert_row = FORMATS[kind][format]
    wanted = dataset.column_names if keep is None else keep
    carried = [name for name in wanted if name in dataset.column_names and name not in KINDS[kind]]
    report = Report(kind, ", ".join(format))
    rows: dict[str, list] = {name: [] for name in (*KINDS[kind], *carried)}
    for row in dataset.select_columns([name for name in dataset.column_names if name in (*READ_COLUMNS, *carried)]):
        report.read += 1
        try:
            converted = convert_row(row)
        except Unusable as reason:
            report.dropped[str(reason)] = report.dropped.get(str(reason), 0) + 1
            continue
        report.kept += 1
        for name in rows:
            rows[name].append(converted[name] if name in KINDS[kind] else row[name])
    if not report.kept:
        raise UserError(
            f"No row can be used as {kind}.",
            got=str(report),
            needed="at least one row that is complete",
            mend="look at a row of the data set, or map other columns with `columns`",
        )
    features = _features(kind)
    features.update({name: dataset.features[name] for name in carried})
    return Dataset.from_dict(rows, features=features), report


def rename_columns(dataset: Dataset, columns: Mapping[str, str]) -> Dataset:
    """Rename columns by {theirs: ours}; a column of theirs that stands in the way is put aside."""
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise UserError(
            f"`columns` names columns that the data set does not have: {', '.join(missing)}.",
            got=f"columns {', '.join(dataset.column_names)}",
            needed="a mapping {column of the data set: recognised column}",
            mend="name one of the columns got on the left",
        )
    targets = list(columns.values())
    twice = sorted({name for name in targets if targets.count(name) > 1})
    if twice:
        raise UserError(
            f"`columns` maps two columns to one name: {', '.join(twice)}.",
            got=dict(columns),
            needed="different names on the right",
            mend="keep one of them",
        )
    in_the_way = [name for name in targets if name in dataset.column_names and name not in columns]
    return dataset.remove_columns(in_the_way).rename_columns(dict(columns))


def recognise(column_names: Sequence[str], kind: str, mapped: Iterable[str] = ()) -> tuple[str, ...]:
    """The first format of `kind` whose columns are all there; one with columns that the user mapped comes first."""
    wanted = set(mapped)
    for format in sorted(FORMATS[kind], key=lambda format: -len(wanted & set(format))):
        if set(format) <= set(column_names):
            return format
    accepted = " | ".join(", ".join(format) for format in FORMATS[kind])
    example = ", ".join(
        f"{theirs}: {ours}" for theirs, ours in zip(column_names, next(iter(FORMATS[kind])), strict=False)
    )
    raise UserError(
        f"The columns are not recognised as {kind} data.",
        got=f"columns {', '.join(column_names)}",
        needed=f"one of these sets of columns: {accepted}",
        mend=f"map yours to ours in the recipe, for example `columns: {{{example}}}`",
    )


# Conversations ------------------------------------------------------------------------------------------------------


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def text_of(row: Row, column: str) -> str:
    """A column that must be a string that says something."""
    value = row[column]
    if not isinstance(value, str):
        raise Unusable(f"{column} is missing" if value is None else f"{column} is not text")
    if not value.strip():
        raise Unusable(f"{column} is empty")
    return value


def read_messages(value: Any) -> Messages:
    """A list of {role, content} or of ShareGPT's {from, value}, as canonical messages."""
    if not isinstance(value, list) or not value:
        raise Unusable("the conversation is empty" if value in (None, []) else "the conversation is not a list")
    messages = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise Unusable("a message is not a mapping")
        role = turn.get("role") or turn.get("from")
        content = turn["content"] if turn.get("content") is not None else turn.get("value")
        role = SHAREGPT_ROLES.get(role, role)
        if role not in ROLES:
            raise Unusable(f"a message has the role {role!r}")
        if not isinstance(content, str):
            raise Unusable("a message's content is not text")
        if not content.strip():
            raise Unusable("empty reply" if role == "assistant" else "empty message")
        messages.append(message(role, content))
    return messages


def read_prompt(value: Any) -> Messages:
    """A prompt that is a string (one user message) or messages."""
    if isinstance(value, str):
        return read_messages([message("user", value)])
    if value is None:
        raise Unusable("prompt is missing")
    return read_messages(value)


def read_reply(row: Row, column: str) -> Messages:
    """A reply that is a string (one assistant message) or messages."""
    value = row[column]
    if isinstance(value, str):
        return read_messages([message("assistant", value)])
    if value is None:
        raise Unusable(f"{column} is missing")
    return read_messages(value)


def read_transcript(text: str) -> Messages:
    """Messages of a '\\n\\nHuman: ...\\n\\nAssistant: ...' transcript, as hh-rlhf has them."""
    before, *turns = TRANSCRIPT_TURN.split(text)
    if before.strip() or not turns:
        raise Unusable("malformed transcript")
    roles = [SHAREGPT_ROLES.get(name.lower(), "assistant") for name in turns[::2]]
    return read_messages([message(role, content.strip()) for role, content in zip(roles, turns[1::2], strict=True)])


def check_turns(messages: Messages, last: str) -> Messages:
    """The messages, if user and assistant take turns and the turn of `last` ends them."""
    turns = [turn["role"] for turn in messages]
    if turns[0] == "system":
        turns = turns[1:]
    if any(role != ROLES[1 + index % 2] for index, role in enumerate(turns)):
        raise Unusable("user and assistant do not take turns")
    if not turns or turns[-1] != last:
        raise Unusable("the last turn is not a reply" if last == "assistant" else "the last turn is not a request")
    return messages


# Row functions ------------------------------------------------------------------------------------------------------


def text_row(row: Row, column: str) -> dict[str, Any]:
    return {"text": text_of(row, column)}


def sft_row(conversation: Messages) -> dict[str, Any]:
    return {"messages": check_turns(conversation, "assistant")}


def prompts_row(conversation: Messages) -> dict[str, Any]:
    """The conversation without a last assistant turn."""
    request = conversation[:-1] if conversation[-1]["role"] == "assistant" else conversation
    if not request:
        raise Unusable("there is no request")
    return {"prompt": check_turns(request, "user")}


def preference_row(row: Row) -> dict[str, Any]:
    """A prompt and two replies, from replies to an explicit prompt, or from two whole conversations."""
    chosen, rejected = _side(row, "chosen"), _side(row, "rejected")
    if chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":
        # Whole conversations: the prompt is what they share. (It may stand in a prompt column once more.)
        if chosen[:-1] != rejected[:-1]:
            raise Unusable("chosen and rejected answer different prompts")
        prompt, chosen, rejected = chosen[:-1], chosen[-1:], rejected[-1:]
    else:
        prompt = read_prompt(row.get("prompt"))
    check_turns(prompt + chosen, "assistant")
    check_turns(prompt + rejected, "assistant")
    if len(chosen) != 1 or len(rejected) != 1:
        raise Unusable("a reply has several turns")
    if chosen[0]["content"].strip() == rejected[0]["content"].strip():
        raise Unusable("chosen and rejected are the same")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _side(row: Row, column: str) -> Messages:
    """One side of a pair: where there is a prompt a string is the reply, else it is a whole transcript."""
    if isinstance(row[column], str) and row.get("prompt") is None:
        return read_transcript(row[column])
    return read_reply(row, column)


def _question(row: Row) -> Messages:
    return [message("user", text_of(row, "question"))]


def _instruction(row: Row) -> Messages:
    request, given = text_of(row, "instruction"), row.get("input")
    return [message("user", f"{request}\n\n{given}" if isinstance(given, str) and given.strip() else request)]


# What is recognised, in the order of preference: columns -> row function.
FORMATS: dict[str, dict[tuple[str, ...], Callable[[Row], dict[str, Any]]]] = {
    "text": {
        ("text",): lambda row: text_row(row, "text"),
        ("content",): lambda row: text_row(row, "content"),
    },
    "sft": {
        ("messages",): lambda row: sft_row(read_messages(row["messages"])),
        ("conversations",): lambda row: sft_row(read_messages(row["conversations"])),
        ("prompt", "completion"): lambda row: sft_row(read_prompt(row["prompt"]) + read_reply(row, "completion")),
        ("prompt", "response"): lambda row: sft_row(read_prompt(row["prompt"]) + read_reply(row, "response")),
        ("instruction", "output"): lambda row: sft_row(_instruction(row) + read_reply(row, "output")),
        ("question", "answer"): lambda row: sft_row(_question(row) + read_reply(row, "answer")),
    },
    "preference": {
        ("prompt", "chosen", "rejected"): preference_row,
        ("chosen", "rejected"): preference_row,
    },
    "prompts": {
        ("prompt",): lambda row: prompts_row(read_prompt(row["prompt"])),
        ("instruction",): lambda row: prompts_row(_instruction(row)),
        ("question",): lambda row: prompts_row(_question(row)),
        ("messages",): lambda row: prompts_row(read_messages(row["messages"])),
        ("conversations",): lambda row: prompts_row(read_messages(row["conversations"])),
        ("chosen",): lambda row: prompts_row(_side(row, "chosen")),
    },
}
# The columns that row functions look at; `input` and `prompt` are optional in some formats.
READ_COLUMNS = {"input", *(name for formats in FORMATS.values() for columns in formats for name in columns)}


def _features(kind: str) -> Features:
    from datasets import Features, List, Value

    if kind == "text":
        return Features({"text": Value("string")})
    messages = List({"role": Value("string"), "content": Value("string")})
    return Features(dict.fromkeys(KINDS[kind], messages))
