"""The recognised sets of columns for each kind of data, and the functions that convert their rows.

A single request (`prompt`, `question`, `instruction`, ...) is written with the columns that belong to it: `system`,
`history`, `context` and `input`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

from alignment.data.columns.cell_values import (
    Row,
    Unusable,
    as_text,
    is_blank,
    is_missing,
    optional_text,
    parsed,
    text_of,
)
from alignment.data.reading.conversations import (
    BEYOND_TEXT,
    JOIN,
    is_conversation,
    is_transcript,
    merged,
    message,
    read_messages,
    read_prompt_transcript,
    read_reply,
    read_transcript,
    refuse_beyond_text,
    take_turns,
    turns_of_texts,
)
from alignment.tokenization.chat_format import Messages

# Kinds of rows: messages; prompts alone; single replies with a label.
CONVERSATIONS, PROMPTS, LABELLED = "sft", "prompts", "kto"
KINDS = {
    "text": ("text",),
    "sft": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "kto": ("prompt", "completion", "label"),
}
SIDES = ("chosen", "rejected")

# Columns by what they hold, in order of preference.
DIALOGUES = ("messages", "conversations", "conversation")
REQUESTS = ("prompt", "instruction", "question", "query", "problem", "inputs", "input")
REPLIES = ("completion", "response", "output", "answer", "solution", "targets", "target")
SYSTEMS = ("system", "system_prompt", "system_message")
# Columns that belong to a single request, if the format does not name them.
PARTS = ("history", "context", "input")
PASSAGE_FIRST = ("prompt", "question", "query", "problem", "inputs", "input")  # requests that `context` precedes
LABEL, MARGIN = "label", "margin"  # MARGIN: of pairs, read by TRL's reward loss alone
OTHER_PROMPT = "rows whose prompt differs from the conversation of chosen and rejected, which was taken"
OTHER_SPACE = "pairs whose prompts differ in white space around a turn; that of chosen was taken"
UNWANTED = "the completion is labelled as unwanted"
# Of `align chat --web`: votes without a preferred reply are no defect of the data.
VOTE, NO_WINNER = "vote", ("tie", "both_bad")
UNDECIDED = "votes without a preferred reply (tie, both bad)"
CHOICES = ("choices", "options")
# What a request may be about, in columns that no format reads.
PASSAGES = (
    *(
        "passage",
        "passages",
        "paragraph",
        "document",
        "article",
        "story",
        "support",
        "evidence",
        "knowledge",
        "premise",
    ),
    *("definition", "schema", "table", "starter_code", "input_text", "text"),
)
# Columns without which a row may mean something else, if the conversation does not contain their text. In any case.
MEANINGFUL = (*REQUESTS, *SYSTEMS, "history", "context", *CHOICES, *PASSAGES)


# Requests -----------------------------------------------------------------------------------------------------------


def request_of(row: Row, column: str) -> Messages:
    """Convert a request and the columns that belong to it to messages."""
    value = row.get(column)
    if is_conversation(value):
        conversation = merged(row, read_messages(row, column))
    elif is_transcript(value):
        conversation = merged(row, read_prompt_transcript(row, value))
    else:
        conversation = [*_history(row), message("user", _written(row, column))]
    return _with_system(row, conversation)


def _written(row: Row, column: str) -> str:
    """Return a request with its `context` and `input`, separated by blank lines."""
    if isinstance(row.get(column), str) and not row[column].strip():
        raise Unusable("empty message")
    request = text_of(row, column)
    context = _context(row)
    if context is not None and context not in request:
        request = JOIN.join([context, request] if column in PASSAGE_FIRST else [request, context])
    given = optional_text(row, "input") if column not in ("input", "inputs") else None
    return request if given is None or given == context else JOIN.join([request, given])


def _context(row: Row) -> str | None:
    """Return the passage that a request is about; several texts are paragraphs."""
    value = row.get("context")
    if isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value):
        return JOIN.join(value)
    return optional_text(row, "context")


def _history(row: Row) -> Messages:
    """Return the turns before a request: pairs of a request and its reply, or messages."""
    value = row.get("history")
    if is_blank(value):
        return []
    if is_conversation(value):
        return read_messages(row, "history")
    value = parsed(value) if isinstance(value, str) else value
    if isinstance(value, list) and len(value) % 2 == 0 and all(isinstance(text, str) for text in value):
        return turns_of_texts(row, [as_text(row, text, "history") for text in value])
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise Unusable("history is not a list of turns")
    roles = ("user", "assistant")
    return [
        message(role, as_text(row, text, "history")) for pair in value for role, text in zip(roles, pair, strict=True)
    ]


def _with_system(row: Row, conversation: Messages) -> Messages:
    """Return the conversation with the system message of a separate column, if there is one, in front."""
    texts = dict.fromkeys(text for text in (optional_text(row, column) for column in SYSTEMS) if text is not None)
    if not texts:
        return conversation
    has_one = bool(conversation) and conversation[0]["role"] == "system"
    system = message("system", next(iter(texts)))
    if len(texts) > 1 or (has_one and conversation[0]["content"].strip() != system["content"].strip()):
        raise Unusable("two system messages")
    return conversation if has_one else [system, *conversation]


# Rows ---------------------------------------------------------------------------------------------------------------


def text_row(row: Row, column: str) -> dict[str, Any]:
    """Convert a document."""
    return {"text": text_of(row, column)}


def dialogue_row(row: Row, column: str) -> dict[str, Any]:
    """Convert a conversation to messages that end with a reply."""
    return sft_row(row, _with_system(row, read_messages(row, column)))


def transcript_row(row: Row, column: str) -> dict[str, Any]:
    """Convert a transcript to messages that end with a reply."""
    return sft_row(row, _with_system(row, read_transcript(row, text_of(row, column))))


def reply_row(row: Row, request: str, reply: str) -> dict[str, Any]:
    """Convert a request and its reply to messages."""
    return sft_row(row, _answered(row, request, reply))


def _answered(row: Row, request: str, reply: str) -> Messages:
    asked = request_of(row, request)
    if asked[-1]["role"] == "assistant":
        raise Unusable("the prompt ends with a reply")
    choices = any(not is_blank(row.get(name)) for name in CHOICES)
    if choices and isinstance(row.get(reply), int | float) and not is_missing(row[reply]):
        raise Unusable(f"{reply} is the number of a choice, not its text")
    return asked + read_reply(row, reply)


def sft_row(row: Row, conversation: Messages) -> dict[str, Any]:
    """Convert a conversation that ends with a reply; replies that are labelled as bad are dropped."""
    if row.get(LABEL) is False:
        raise Unusable(UNWANTED)
    return {"messages": take_turns(row, conversation, "assistant")}


def request_row(row: Row, column: str) -> dict[str, Any]:
    """Convert a request to a prompt."""
    return prompts_row(row, request_of(row, column))


def dialogue_prompt_row(row: Row, column: str) -> dict[str, Any]:
    """Convert a conversation to a prompt, without its last reply."""
    return prompts_row(row, _with_system(row, read_messages(row, column)))


def transcript_prompt_row(row: Row, column: str) -> dict[str, Any]:
    """Convert a transcript to a prompt, without its last reply."""
    return prompts_row(row, _with_system(row, read_transcript(row, text_of(row, column))))


def side_prompt_row(row: Row, column: str) -> dict[str, Any]:
    """Convert one side of a pair to a prompt, without its last reply."""
    return prompts_row(row, _with_system(row, _side(row, column, None)))


def prompts_row(row: Row, conversation: Messages) -> dict[str, Any]:
    """Convert a conversation to a prompt, without a final assistant turn."""
    conversation = merged(row, conversation)
    asked = conversation[:-1] if conversation[-1]["role"] == "assistant" else conversation
    if not asked:
        raise Unusable("there is no request")
    return {"prompt": take_turns(row, asked, "user")}


def preference_row(row: Row, column: str | None) -> dict[str, Any]:
    """Convert a request and two replies to it, or two whole conversations with the same prompt.

    Args:
        column: the column of the request; None if there is none.
    """
    if row.get(VOTE) in NO_WINNER and all(is_missing(row.get(side)) for side in SIDES):
        raise Unusable(UNDECIDED)
    chosen, rejected = (_side(row, side, column) for side in SIDES)
    if any(turns[0]["role"] != "assistant" for turns in (chosen, rejected)):
        # Whole conversations: the prompt is their common beginning. (It may also be in a prompt column.)
        if chosen[:-1] != rejected[:-1]:
            if _stripped(chosen[:-1]) != _stripped(rejected[:-1]):
                raise Unusable("chosen and rejected answer different prompts")
            row.changed.add(OTHER_SPACE)
        prompt, chosen, rejected = _prompt_of_whole(row, chosen[:-1], column), chosen[-1:], rejected[-1:]
    elif column is None:
        raise Unusable("prompt is missing")
    else:
        prompt = request_of(row, column)
    if not prompt or prompt[-1]["role"] == "assistant":
        raise Unusable("the prompt ends with a reply" if prompt else "there is no request")
    prompt = take_turns(row, prompt, "user")
    take_turns(row, prompt + chosen, "assistant")
    take_turns(row, prompt + rejected, "assistant")
    if len(chosen) != 1 or len(rejected) != 1:
        raise Unusable("a reply has several turns")
    if chosen[0]["content"].strip() == rejected[0]["content"].strip():
        raise Unusable("chosen and rejected are the same")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _side(row: Row, side: str, column: str | None) -> Messages:
    """Convert one side of a pair: with a prompt, text is the reply unless it is a transcript; otherwise it must be."""
    value = row.get(side)
    alone = column is None or is_missing(row.get(column))
    if isinstance(value, str) and not is_conversation(value) and value.strip() and (alone or is_transcript(value)):
        return merged(row, read_transcript(row, value))
    if isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value):
        asked = None if column is None else row.get(column)
        if isinstance(asked, str) and value[0].strip() == asked.strip():  # a whole conversation, as texts
            return turns_of_texts(row, [as_text(row, text, side) for text in value])
    return read_reply(row, side, whole=True)


def _stripped(turns: Messages) -> Messages:
    return [message(turn["role"], turn["content"].strip()) for turn in turns]


def _prompt_of_whole(row: Row, shared: Messages, column: str | None) -> Messages:
    """Return the prompt that two conversations share, with what the prompt column has before it.

    That is a system message or earlier turns, if the prompt column ends as the conversations' prompt does.
    """
    if column is None or is_blank(row.get(column)):
        return _with_system(row, shared)
    given = request_of(row, column)
    (given_system, given), (system, shared) = _parted(given), _parted(shared)
    asked, known = _stripped(given), _stripped(shared)
    if len(asked) > len(known) and (not known or asked[-len(known) :] == known):
        shared = given
    elif not any(known[start : start + len(asked)] == asked for start in range(len(known))):
        row.changed.add(OTHER_PROMPT)
    if system and given_system and _stripped(system) != _stripped(given_system):
        row.changed.add(OTHER_PROMPT)
    return [*(system or given_system), *shared]


def _parted(conversation: Messages) -> tuple[Messages, Messages]:
    """Return the system message, if there is one, and the turns."""
    count = int(conversation[:1] != [] and conversation[0]["role"] == "system")
    return conversation[:count], conversation[count:]


def kto_row(row: Row, request: str, reply: str) -> dict[str, Any]:
    """Convert a request, a reply to it, and whether the reply is good."""
    return _labelled(row, _answered(row, request, reply))


def kto_dialogue_row(row: Row, column: str) -> dict[str, Any]:
    """Convert a conversation whose last reply is labelled."""
    return _labelled(row, _with_system(row, read_messages(row, column)))


def _labelled(row: Row, conversation: Messages) -> dict[str, Any]:
    if is_missing(row.get(LABEL)):
        raise Unusable("label is missing")
    whole = take_turns(row, conversation, "assistant")
    return {"prompt": whole[:-1], "completion": whole[-1:], "label": row[LABEL]}


# Rows that hold several ---------------------------------------------------------------------------------------------


def instances_of(row: Row) -> list[Row]:
    """Expand an instruction with several instances, as in self-instruct, to a row for each instance."""
    instances = parsed(row["instances"]) if isinstance(row["instances"], str) else row["instances"]
    if not isinstance(instances, list) or not instances:
        raise Unusable("there are no instances")
    if not all(isinstance(instance, Mapping) for instance in instances):
        raise Unusable("an instance is not a mapping")
    return [row.with_values(input=one.get("input"), output=one.get("output")) for one in instances]


def both_of(row: Row, column: str | None) -> list[Row]:
    """Expand a pair to two rows: a good and a bad reply to its prompt."""
    pair = preference_row(row, column)
    return [Row({"prompt": pair["prompt"], "completion": pair[side], LABEL: side == "chosen"}) for side in SIDES]


# Formats ------------------------------------------------------------------------------------------------------------

Format = tuple[str, ...]
RowFunction = Callable[[Row], dict[str, Any]]


def _pairs_of_columns() -> Iterator[Format]:
    """Yield the columns of a request and its reply, in order of preference."""
    yield from (("prompt", "completion"), ("prompt", "response"), ("instruction", "output"))
    yield from (("question", "answer"), ("query", "response"))
    yield from product(REQUESTS, REPLIES)


def _sft_formats() -> dict[Format, RowFunction]:
    replies: dict[Format, RowFunction] = {
        pair: partial(reply_row, request=pair[0], reply=pair[1]) for pair in _pairs_of_columns()
    }
    return {
        **{(name,): partial(dialogue_row, column=name) for name in DIALOGUES},
        **replies,
        ("instruction", "instances"): partial(reply_row, request="instruction", reply="output"),
        ("transcript",): partial(transcript_row, column="transcript"),
    }


def _preference_formats() -> dict[Format, RowFunction]:
    return {
        **{(name, *SIDES): partial(preference_row, column=name) for name in (*REQUESTS, *DIALOGUES)},
        SIDES: partial(preference_row, column=None),
    }


def _prompts_formats() -> dict[Format, RowFunction]:
    return {
        ("prompt",): partial(request_row, column="prompt"),
        ("instruction", "instances"): partial(request_row, column="instruction"),
        **{(name,): partial(request_row, column=name) for name in ("instruction", "question", "query", "problem")},
        **{(name,): partial(dialogue_prompt_row, column=name) for name in DIALOGUES},
        ("chosen",): partial(side_prompt_row, column="chosen"),
        ("transcript",): partial(transcript_prompt_row, column="transcript"),
        **{(name,): partial(request_row, column=name) for name in ("inputs", "input")},
    }


def _kto_formats() -> dict[Format, RowFunction]:
    formats: dict[Format, RowFunction] = {
        (*pair, LABEL): partial(kto_row, request=pair[0], reply=pair[1]) for pair in _pairs_of_columns()
    }
    formats |= {(name, LABEL): partial(kto_dialogue_row, column=name) for name in DIALOGUES}
    return formats | dict.fromkeys(_preference_formats(), partial(kto_row, request="prompt", reply="completion"))


# The recognised formats of each kind, in order of preference: columns -> row function.
FORMATS: dict[str, dict[Format, RowFunction]] = {
    "text": {
        ("text",): partial(text_row, column="text"),
        ("content",): partial(text_row, column="content"),
    },
    "sft": _sft_formats(),
    "preference": _preference_formats(),
    "prompts": _prompts_formats(),
    "kto": _kto_formats(),
}
EXPANSIONS: dict[tuple[str, Format], Callable[[Row], list[Row]]] = {
    ("sft", ("instruction", "instances")): instances_of,
    ("prompts", ("instruction", "instances")): instances_of,
    **{
        ("kto", columns): partial(both_of, column=columns[0] if len(columns) == 3 else None)
        for columns in _preference_formats()
    },
}


def optional_columns(kind: str, format: Format) -> tuple[str, ...]:
    """Return the further columns that the rows of a format are made of, if the data set has them."""
    if kind == "text":
        return ()
    parts = PARTS if set(format) & set(REQUESTS) else ()
    return tuple(name for name in (*parts, *SYSTEMS) if name not in format)


def canonical_rows_of(row: Row, kind: str, format: Format) -> Iterator[dict[str, Any] | Unusable]:
    """Yield the canonical rows that a row holds, or for each that cannot be used the reason."""
    try:
        if kind != "text":
            refuse_beyond_text(row)
        parts = EXPANSIONS[kind, format](row) if (kind, format) in EXPANSIONS else [row]
    except Unusable as reason:
        yield reason
        return
    for part in parts:
        try:
            canonical = FORMATS[kind][format](part)
        except Unusable as reason:
            yield reason
            continue
        row.changed |= part.changed
        yield canonical


READ_COLUMNS = {
    *(*BEYOND_TEXT, *(name for name in MEANINGFUL if name not in PASSAGES[4:]), LABEL, VOTE),
    *(name for formats in FORMATS.values() for columns in formats for name in columns),
}
