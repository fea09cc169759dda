"""Recognise a data set's columns and convert its rows to one of five kinds.

    text        {text}
    sft         {messages}
    preference  {prompt, chosen, rejected}   each a list of messages; chosen and rejected hold one reply
    prompts     {prompt}                     a list of messages that waits for a reply
    kto         {prompt, completion, label}  two lists of messages, the second one reply; whether the reply is wanted

A message is {"role": "system" | "user" | "assistant", "content": str}. A conversation may begin with a system message;
then user and assistant take turns. Rows that cannot be made into this are dropped, counted by reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, Features

Row = Mapping[str, Any]
Messages = list[dict[str, str]]

CONVERSATIONS = "sft"
KINDS = {
    "text": ("text",),
    "sft": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "kto": ("prompt", "completion", "label"),
}
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
ROLES = ("system", "user", "assistant")
TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")
TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):")
# What a message or a row may hold beside its text, and a canonical one cannot: key -> why the row is dropped.
BEYOND_TEXT = {
    "tool_calls": "tools or function calls",
    "function_call": "tools or function calls",
    "tools": "tools or function calls",
    "functions": "tools or function calls",
    "image": "images",
    "images": "images",
    "reasoning_content": "reasoning apart from the reply",
    "thinking": "reasoning apart from the reply",
}
# How many rows a report names for each reason, and how many are held in memory while they are converted.
EXAMPLES = 3
CONVERTED_ROWS = 200


class Unusable(Exception):
    """Why a row is dropped; the reason is counted and reported."""


@dataclass
class Report:
    """What became of the rows of a source: read = kept + the sum of dropped."""

    kind: str
    format: str
    rows: int = 0
    """Rows of the source. `read` is more where a row holds several: the instances of an instruction, both of a pair."""
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)
    """The first few source rows of each reason, counted from 1."""

    def __str__(self) -> str:
        reasons = "; ".join(self._reason(reason) for reason in sorted(self.dropped))
        lost = f"{self.read - self.kept} dropped" + (f" ({reasons})" if reasons else "")
        source = f" (of {self.rows} in the source)" if self.rows != self.read else ""
        return f"{self.read} rows{source} read as {self.kind} from {self.format}, {self.kept} kept, {lost}"

    def _reason(self, reason: str) -> str:
        count, examples = self.dropped[reason], self.examples.get(reason, [])
        if not examples:
            return f"{count} {reason}"
        more = ", ..." if count > len(examples) else ""
        return f"{count} {reason}: row {', '.join(map(str, examples))}{more}"

    def drop(self, reason: str, row: int) -> None:
        self.read += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES and row not in examples:
            examples.append(row)


def convert(
    dataset: Dataset, kind: str, *, columns: Mapping[str, str] | None = None, keep: Sequence[str] | None = ()
) -> tuple[Dataset, Report]:
    """The rows of `dataset` as `kind`, and a report of what was dropped.

    `columns` maps their column names to the recognised ones and is applied first. The columns in `keep` come along
    where the data set has them (a canonical column of that name wins). Rows of a memory-mapped data set are written
    to datasets' cache with their report; those of one in memory stay there.
    """
    from alignment.data.reading.arrow_cache import NoRowsError, cached_tables, code_digest, tables_in_memory

    renamed = rename_columns(dataset, columns or {})
    format = recognise(renamed.column_names, kind, mapped=(columns or {}).values())
    wanted = renamed.column_names if keep is None else keep
    carried = [name for name in wanted if name in renamed.column_names and name not in KINDS[kind]]

    def tables(notes: dict[str, Any]) -> Iterator[pyarrow.Table]:
        return _tables(renamed, kind, format, carried, notes)

    try:
        if dataset.cache_files:
            # datasets' fingerprint stands for the rows: their source and all that was done to them.
            key = ("converted", code_digest(__file__), dataset._fingerprint, columns, kind, format, carried)
            rows, notes = cached_tables(key, tables)
        else:
            rows, notes = tables_in_memory(tables)
    except NoRowsError as error:
        raise UserError(
            f"No row can be used as {kind}.",
            got=str(Report(**error.args[0])),
            expected="at least one row that is complete",
            fix="look at a row of the data set, or map other columns with `columns`",
        ) from None
    return rows, Report(**notes)


def _tables(
    dataset: Dataset, kind: str, format: tuple[str, ...], carried: list[str], notes: dict[str, Any]
) -> Iterator[pyarrow.Table]:
    """Tables of canonical rows with the carried columns; `notes` gets the report's fields."""
    import pyarrow
    from datasets import Features

    present = [name for name in dataset.column_names if name in READ_COLUMNS]
    used = [name for name in present if name in (*format, *OPTIONAL_COLUMNS.get(kind, ()))]
    report = Report(kind, ", ".join([*format, *(name for name in used if name not in format)]))
    schema = Features({**_features(kind), **{name: dataset.features[name] for name in carried}}).arrow_schema
    plain, arrow = dataset.select_columns(present).with_format(None), dataset.with_format("arrow")
    for start in range(0, len(dataset), CONVERTED_ROWS):
        values = plain[start : start + CONVERTED_ROWS]
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        numbered = list(_converted(rows, start, kind, format, report))
        columns = [pyarrow.array([row[name] for _, row in numbered], schema.field(name).type) for name in KINDS[kind]]
        if carried:
            sources = arrow[start : start + CONVERTED_ROWS].take([number - start for number, _ in numbered])
            columns += [sources[name] for name in carried]
        yield pyarrow.Table.from_arrays(columns, schema=schema)
    notes.update(asdict(report))


def _converted(
    rows: list[Row], start: int, kind: str, format: tuple[str, ...], report: Report
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number in the source, canonical row) of the usable ones; all are counted in the report."""
    convert_row, expand = FORMATS[kind][format], EXPANSIONS.get((kind, format), lambda row: [row])
    for number, row in enumerate(rows, start=start):
        report.rows += 1
        try:
            if kind != "text":
                refuse_beyond_text(row)
            parts = expand(row)
        except Unusable as reason:
            report.drop(str(reason), number + 1)
            continue
        for part in parts:
            try:
                canonical = convert_row(part)
            except Unusable as reason:
                report.drop(str(reason), number + 1)
                continue
            report.read += 1
            report.kept += 1
            yield number, canonical


def rename_columns(dataset: Dataset, columns: Mapping[str, str]) -> Dataset:
    """Rename columns by {theirs: ours}; a column of theirs that stands in the way is put aside."""
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise UserError(
            f"`columns` names columns that the data set does not have: {', '.join(missing)}.",
            got=f"columns {', '.join(dataset.column_names)}",
            expected="a mapping {column of the data set: recognised column}",
            fix="name one of the columns got on the left",
        )
    targets = list(columns.values())
    twice = sorted({name for name in targets if targets.count(name) > 1})
    if twice:
        raise UserError(
            f"`columns` maps two columns to one name: {', '.join(twice)}.",
            got=dict(columns),
            expected="different names on the right",
            fix="keep one of them",
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
        expected=f"one of these sets of columns: {accepted}",
        fix=f"map yours to ours in the recipe, for example `columns: {{{example}}}`",
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
        refuse_beyond_text(turn)
        role = turn.get("role") or turn.get("from")
        content = turn["content"] if turn.get("content") is not None else turn.get("value")
        role = SHAREGPT_ROLES.get(role, role)
        if role in TOOL_ROLES:
            raise Unusable("tools or function calls")
        if role not in ROLES:
            raise Unusable(f"a message has the role {role!r}")
        if role == "assistant" and (turn.get("weight") == 0 or turn.get("train") is False):
            raise Unusable("a reply is marked not to be learned")
        if isinstance(content, list):
            raise Unusable(_parts_reason(content))
        if not isinstance(content, str):
            raise Unusable("a message's content is not text")
        if not content.strip():
            raise Unusable("empty reply" if role == "assistant" else "empty message")
        messages.append(message(role, content))
    return messages


def refuse_beyond_text(holder: Row) -> None:
    """Raise for what a row or message holds beside its text and a canonical one cannot hold."""
    for key, reason in BEYOND_TEXT.items():
        if holder.get(key) and holder[key] != "[]":
            raise Unusable(reason)


def _parts_reason(parts: list[Any]) -> str:
    """Why a content of several parts is dropped."""
    types = {str(part.get("type")) for part in parts if isinstance(part, Mapping)}
    return "images" if any("image" in name for name in types) else "a content of several parts"


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


def sft_row(row: Row, conversation: Messages) -> dict[str, Any]:
    """A conversation that ends in a reply. One that is labelled bad is nothing to imitate."""
    if row.get("label") is False:
        raise Unusable("the completion is labelled as unwanted")
    return {"messages": check_turns(_with_system(row, conversation), "assistant")}


def prompts_row(row: Row, conversation: Messages) -> dict[str, Any]:
    """The conversation without a last assistant turn."""
    request = conversation[:-1] if conversation[-1]["role"] == "assistant" else conversation
    if not request:
        raise Unusable("there is no request")
    return {"prompt": check_turns(_with_system(row, request), "user")}


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
    prompt = _with_system(row, prompt)
    check_turns(prompt + chosen, "assistant")
    check_turns(prompt + rejected, "assistant")
    if len(chosen) != 1 or len(rejected) != 1:
        raise Unusable("a reply has several turns")
    if chosen[0]["content"].strip() == rejected[0]["content"].strip():
        raise Unusable("chosen and rejected are the same")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def kto_row(row: Row) -> dict[str, Any]:
    """A prompt, one reply to it, and whether that is wanted: true or false, or 1 or 0."""
    prompt, completion = _with_system(row, read_prompt(row["prompt"])), read_reply(row, "completion")
    if row["label"] not in (True, False):
        raise Unusable("label is missing" if row["label"] is None else "label is not true or false")
    check_turns(prompt + completion, "assistant")
    if len(completion) != 1:
        raise Unusable("a reply has several turns")
    return {"prompt": prompt, "completion": completion, "label": bool(row["label"])}


def _with_system(row: Row, conversation: Messages) -> Messages:
    """The conversation, begun by the system message that stands in a column of its own."""
    system = row.get("system") or row.get("system_prompt")
    if not isinstance(system, str) or not system.strip() or conversation[:1] == [message("system", system)]:
        return conversation
    if conversation and conversation[0]["role"] == "system":
        raise Unusable("two system messages")
    return [message("system", system), *conversation]


def _side(row: Row, column: str) -> Messages:
    """One side of a pair: where there is a prompt a string is the reply, else it is a whole transcript."""
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
    """An instruction with its instances, as self-instruct has them: a row for each."""
    instances = row["instances"]
    if not isinstance(instances, list) or not instances:
        raise Unusable("there are no instances")
    if not all(isinstance(instance, Mapping) for instance in instances):
        raise Unusable("an instance is not a mapping")
    return [{**row, "input": instance.get("input"), "output": instance.get("output")} for instance in instances]


def both_of(row: Row) -> list[Row]:
    """A pair, as a wanted and an unwanted reply to its prompt."""
    pair = preference_row(row)
    return [{"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"} for side in SIDES]


SIDES = ("chosen", "rejected")
EXPANSIONS: dict[tuple[str, tuple[str, ...]], Callable[[Row], list[Row]]] = {
    ("sft", ("instruction", "instances")): instances_of,
    ("prompts", ("instruction", "instances")): instances_of,
    ("kto", ("prompt", "chosen", "rejected")): both_of,
    ("kto", ("chosen", "rejected")): both_of,
}


# What is recognised, in the order of preference: columns -> row function.
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
# What row functions look at beside a format's columns.
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


def _features(kind: str) -> Features:
    from datasets import Features, List, Value

    if kind == "text":
        return Features({"text": Value("string")})
    messages = List({"role": Value("string"), "content": Value("string")})
    return Features({name: Value("bool") if name == "label" else messages for name in KINDS[kind]})
