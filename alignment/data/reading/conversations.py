"""Conversion of a row's conversations to canonical messages: from message lists, ShareGPT's turns, text, transcripts.

A message is {"role": "system" | "user" | "assistant", "content": str}. A conversation may begin with a system message;
then user and assistant take turns: consecutive turns of one role are merged. Rows that cannot be converted raise
`Unusable`; what is changed in the others is recorded in the row's `changed`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from alignment.data.columns.cell_values import Row, Unusable, as_text, is_blank, is_missing, parsed
from alignment.tokenization.chat_format import Messages

ROLES = ("system", "user", "assistant")
# Names of roles in lower case -> role: of OpenAI, ShareGPT, OpenAssistant, Gemma, LangChain and others.
ROLE_NAMES = {
    **{role: role for role in ROLES},
    "developer": "system",
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "chatbot", "model", "ai"), "assistant"),
}
TOOL_ROLES = (
    *("tool", "tool_call", "tool_calls", "tool_response", "function", "function_call", "function_response"),
    *("observation", "ipython"),
)
ROLE_KEYS, CONTENT_KEYS = ("role", "from", "author", "speaker"), ("content", "value", "text", "message")
# Keys of a turn that holds a request and its reply, as in {"human": ..., "assistant": ...}.
ASKED_KEYS = ("user", "human", "question", "prompt", "query", "instruction", "input")
REPLIED_KEYS = ("assistant", "gpt", "bot", "output", "answer", "response", "completion")
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
GUANACO_TURN = re.compile(r"\s*### (Human|Assistant):")
# A prompt in hh-rlhf's form: it begins with a turn, and if it has no blank lines before that, ends with an open reply.
HH_PROMPT = re.compile(r"\n\nHuman:|\s*Human:.*\n\nAssistant:\s*$", re.DOTALL)
JOIN = "\n\n"  # between the contents of merged turns

TOOLS, IMAGES, REASONING = "tools or function calls", "images", "reasoning apart from the reply"
# Keys of messages or rows whose content canonical messages cannot express -> why the row is dropped.
BEYOND_TEXT = {
    **dict.fromkeys(("tool_calls", "function_call", "tools", "functions"), TOOLS),
    **dict.fromkeys(("image", "images"), IMAGES),
    **dict.fromkeys(("reasoning_content", "thinking"), REASONING),
}
# Keys of messages as text that says they are messages; a reply or request may be JSON of other things.
WRITTEN_KEYS = ({"role", "content"}, {"from", "value"})
FURTHER_KEYS = {"name", "weight", "train", "tool_call_id", *BEYOND_TEXT}
# What is changed, counted by rows.
TURNS_OF_TEXT = "rows whose turns are texts without roles, read as the user's and the assistant's in turn"
SYSTEM_AGAIN = "rows whose turns repeat the system message, which was taken once"
MERGED, PARTS_JOINED = "rows with merged turns of one role", "rows with joined text parts"
JSON_READ, SYSTEM_LEFT_OUT = "rows read from JSON text", "rows with an empty system message left out"


def message(role: str, content: str) -> dict[str, str]:
    """Return a message."""
    return {"role": role, "content": content}


def is_conversation(value: Any) -> bool:
    """Return whether a value is messages, or JSON text that holds messages, rather than plain text."""
    if isinstance(value, str):
        value = parsed(value)
        turns = value if isinstance(value, list) else [value]
        return bool(turns) and all(map(_is_written_message, turns))
    return _is_message(value) or (isinstance(value, list) and any(isinstance(turn, Mapping) for turn in value))


def _is_message(turn: Any) -> bool:
    return isinstance(turn, Mapping) and all(any(key in turn for key in keys) for keys in (ROLE_KEYS, CONTENT_KEYS))


def _is_written_message(turn: Any) -> bool:
    """Whether an object of JSON text can only be a message: it has the usual keys, no others, and a known role."""
    if not isinstance(turn, Mapping):
        return False
    role = turn.get("role", turn.get("from"))
    known = isinstance(role, str) and role.strip().lower() in (*ROLE_NAMES, *TOOL_ROLES)
    return known and any(keys <= turn.keys() <= keys | FURTHER_KEYS for keys in WRITTEN_KEYS)


def read_messages(row: Row, column: str) -> Messages:
    """Convert a list of {role, content}, of ShareGPT's {from, value} or of similar turns to canonical messages."""
    messages: Messages = []
    for turn in _turns(row, row.get(column)):
        read = _read_turn(row, turn)
        if len(messages) > 1 and read[:1] == messages[:1] and read[0]["role"] == "system":
            row.changed.add(SYSTEM_AGAIN)
            read = read[1:]
        messages += read
    if not messages:
        raise Unusable("the conversation is empty")
    return messages


def _turns(row: Row, value: Any) -> list[Any]:
    """Return the turns of a conversation that is a list, a single message, JSON text, or an object of lists."""
    if is_blank(value):
        raise Unusable("the conversation is empty")
    if isinstance(value, str):
        value = _from_json(row, value)
    if isinstance(value, Mapping):
        lists = list(value.values())
        if all(isinstance(items, list) and len(items) == len(lists[0]) for items in lists):
            value = [dict(zip(value, turn, strict=True)) for turn in zip(*lists, strict=True)]
        else:
            value = [value]
    if not isinstance(value, list):
        raise Unusable("the conversation is not a list")
    if not value:
        raise Unusable("the conversation is empty")
    if all(isinstance(turn, str) for turn in value):  # as in LIMA
        return turns_of_texts(row, value)
    return value


def turns_of_texts(row: Row, texts: list[str]) -> Messages:
    """Return texts as the turns of user and assistant, the user's first."""
    row.changed.add(TURNS_OF_TEXT)
    return [message(ROLES[1 + place % 2], text) for place, text in enumerate(texts)]


def _from_json(row: Row, text: str) -> Any:
    value = parsed(text)
    if value is None:
        if not text.lstrip().startswith(("[", "{")):
            raise Unusable("the conversation is text, not a list of messages")
        quoted = re.match(r"\s*[\[{]+\s*'", text)
        raise Unusable("the conversation is text that is not JSON" + (" (single quotes?)" if quoted else ""))
    row.changed.add(JSON_READ)
    return value


def _read_turn(row: Row, turn: Any) -> Messages:
    """Convert a turn to its message, or to two if it holds a request and its reply, or to none if it says nothing."""
    if not isinstance(turn, Mapping):
        raise Unusable("a message is text, without a role" if isinstance(turn, str) else "a message is not a mapping")
    refuse_beyond_text(turn)
    role = _first(turn, ROLE_KEYS)
    if role is None:
        return _request_and_reply(row, turn)
    role = _role(role)
    if role == "assistant" and (turn.get("weight") == 0 or turn.get("train") is False):
        raise Unusable("a reply is marked not to be learned")
    return _message(row, role, _first(turn, CONTENT_KEYS))


def _request_and_reply(row: Row, turn: Mapping[str, Any]) -> Messages:
    asked, replied = ([key for key in keys if not is_missing(turn.get(key))] for keys in (ASKED_KEYS, REPLIED_KEYS))
    if not asked or not replied:
        raise Unusable("a message has no role")
    if (len(asked) > 1 and asked[1:] != ["input"]) or len(replied) > 1:
        raise Unusable("a turn has several requests or replies")
    given = [message["content"] for key in asked[:1] for message in _message(row, "user", turn[key])]
    if asked[1:] and not is_blank(turn["input"]):
        given += [as_text(row, turn["input"], "input")]
    system = [] if is_blank(turn.get("system")) else _message(row, "system", turn["system"])
    return [*system, message("user", JOIN.join(given)), *_message(row, "assistant", turn[replied[0]])]


def _first(turn: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((turn[key] for key in keys if not is_missing(turn.get(key))), None)


def _role(role: Any) -> str:
    """Return the canonical role of a message, by its name."""
    if isinstance(role, Mapping):  # {"author": {"role": "user"}}
        role = role.get("role")
    if not isinstance(role, str):
        raise Unusable("a message's role is not text", role)
    name = role.strip().lower()
    if name in TOOL_ROLES:
        raise Unusable(TOOLS)
    if name not in ROLE_NAMES:
        raise Unusable("a message has an unknown role", role)
    return ROLE_NAMES[name]


def _message(row: Row, role: str, content: Any) -> Messages:
    """Return the message of a role and a content; none for a system message without content."""
    if isinstance(content, list) and content:
        content = _joined(row, content)
    if is_missing(content):
        raise Unusable("a message has no content")
    if is_blank(content):
        if role != "system":
            raise Unusable("empty reply" if role == "assistant" else "empty message")
        row.changed.add(SYSTEM_LEFT_OUT)
        return []
    return [message(role, as_text(row, content, "a message's content"))]


def _joined(row: Row, parts: list[Any]) -> str:
    """Join the parts of a content if all are text, as chat templates write them: with nothing in between."""
    texts = [_part_text(part) for part in parts]
    if len(texts) > 1:
        row.changed.add(PARTS_JOINED)
    return "".join(texts)


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise Unusable("a content of several parts")
    refuse_beyond_text(part)
    kind, text = str(part.get("type") or "text"), part.get("text")
    if "image" in kind or not is_blank(part.get("image_url")):
        raise Unusable(IMAGES)
    if kind.startswith(("tool", "function")):
        raise Unusable(TOOLS)
    if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
        raise Unusable("a content of several parts")
    return text


def refuse_beyond_text(holder: Mapping[str, Any]) -> None:
    """Raise for content of a row or message that canonical messages cannot express."""
    for key, reason in BEYOND_TEXT.items():
        value = holder.get(key)
        if not is_blank(value) and value is not False and value not in ("[]", "{}", "null"):
            raise Unusable(reason)


def read_reply(row: Row, column: str, whole: bool = False) -> Messages:
    """Convert a reply that is text (one assistant message) or messages.

    Args:
        whole: JSON text of a conversation with its request is read, too; otherwise it is the reply's text.
    """
    value = row.get(column)
    if isinstance(value, str) and not value.strip():
        raise Unusable("empty reply")
    if is_conversation(value) and (whole or not isinstance(value, str) or _is_written_reply(value)):
        return merged(row, read_messages(row, column))
    return [message("assistant", as_text(row, value, column))]


def _is_written_reply(text: str) -> bool:
    """Whether JSON text of messages holds nothing but a reply."""
    value = parsed(text)
    turns = value if isinstance(value, list) else [value]
    return all(ROLE_NAMES.get(str(turn.get("role", turn.get("from"))).strip().lower()) == "assistant" for turn in turns)


def is_transcript(value: Any) -> TypeGuard[str]:
    """Return whether a prompt or a side of a pair is a whole transcript in hh-rlhf's form, not a single message."""
    return isinstance(value, str) and HH_PROMPT.match(value) is not None


def read_transcript(row: Row, text: str) -> Messages:
    """Convert a transcript with turns `Human:`, `Assistant:` after blank lines (hh-rlhf), or `### Human:` (Guanaco)."""
    if text.lstrip().startswith("Human:"):
        text = JOIN + text.lstrip()
    pattern = GUANACO_TURN if GUANACO_TURN.match(text) else HH_TURN
    before, *turns = pattern.split(text)
    if before.strip() or not turns:
        raise Unusable("malformed transcript")
    roles, contents = turns[::2], turns[1::2]
    messages: Messages = []
    for role, content in zip(roles, contents, strict=True):
        messages += _message(row, ROLE_NAMES[role.lower()], content.strip())
    return messages


def read_prompt_transcript(row: Row, text: str) -> Messages:
    """Convert a prompt in hh-rlhf's form, which may end with an open `\\n\\nAssistant:`."""
    return read_transcript(row, re.sub(r"\n\nAssistant:\s*$", "", text))


def merged(row: Row, messages: Messages) -> Messages:
    """Merge consecutive messages of one role, with a blank line between their contents."""
    whole: Messages = []
    for one in messages:
        if whole and whole[-1]["role"] == one["role"]:
            row.changed.add(MERGED)
            whole[-1] = message(one["role"], whole[-1]["content"] + JOIN + one["content"])
        else:
            whole.append(one)
    return whole


def take_turns(row: Row, messages: Messages, last: str) -> Messages:
    """Return the messages, merged, if user and assistant take turns and the last is of the role `last`; else raise."""
    whole = merged(row, messages)
    turns = [turn["role"] for turn in whole]
    if turns[:1] == ["system"]:
        turns = turns[1:]
    if "system" in turns:
        raise Unusable("a system message after the first turn")
    if turns[:1] == ["assistant"]:
        raise Unusable("the first turn is a reply")
    if not turns or turns[-1] != last:
        raise Unusable("the last turn is not a reply" if last == "assistant" else "the last turn is not a request")
    return whole
