"""Conversion of a row's conversations to canonical messages: from message lists, ShareGPT's turns, text, transcripts.

A message is {"role": "system" | "user" | "assistant", "content": str}. A conversation may begin with a system message;
then user and assistant take turns. Rows that cannot be converted raise `Unusable`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from alignment.tokenization.chat_format import Messages

Row = Mapping[str, Any]

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
ROLES = ("system", "user", "assistant")
TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "ipython")
TRANSCRIPT_TURN = re.compile(r"\n\n(Human|Assistant):")
# Keys of messages or rows whose content canonical messages cannot express -> why the row is dropped.
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


class Unusable(Exception):
    """Raised for a row that is dropped; its argument is the reason, which is counted and reported."""


def message(role: str, content: str) -> dict[str, str]:
    """Return a message."""
    return {"role": role, "content": content}


def text_of(row: Row, column: str) -> str:
    """Return a column's text, which must not be blank."""
    value = row[column]
    if not isinstance(value, str):
        raise Unusable(f"{column} is missing" if value is None else f"{column} is not text")
    if not value.strip():
        raise Unusable(f"{column} is empty")
    return value


def read_messages(value: Any) -> Messages:
    """Convert a list of {role, content} or of ShareGPT's {from, value} to canonical messages."""
    if not isinstance(value, list) or not value:
        raise Unusable("the conversation is empty" if value in (None, []) else "the conversation is not a list")
    messages = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise Unusable("a message is not a mapping")
        refuse_beyond_text(turn)
        role: Any = turn.get("role") or turn.get("from")
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
    """Raise for content of a row or message that canonical messages cannot express."""
    for key, reason in BEYOND_TEXT.items():
        if holder.get(key) and holder[key] != "[]":
            raise Unusable(reason)


def _parts_reason(parts: list[Any]) -> str:
    """Return why a content of several parts is dropped."""
    types = {str(part.get("type")) for part in parts if isinstance(part, Mapping)}
    return "images" if any("image" in name for name in types) else "a content of several parts"


def read_prompt(value: Any) -> Messages:
    """Convert a prompt that is a string (one user message) or messages."""
    if isinstance(value, str):
        return read_messages([message("user", value)])
    if value is None:
        raise Unusable("prompt is missing")
    return read_messages(value)


def read_reply(row: Row, column: str) -> Messages:
    """Convert a reply that is a string (one assistant message) or messages."""
    value = row[column]
    if isinstance(value, str):
        return read_messages([message("assistant", value)])
    if value is None:
        raise Unusable(f"{column} is missing")
    return read_messages(value)


def read_transcript(text: str) -> Messages:
    """Convert a '\\n\\nHuman: ...\\n\\nAssistant: ...' transcript, as in hh-rlhf."""
    before, *turns = TRANSCRIPT_TURN.split(text)
    if before.strip() or not turns:
        raise Unusable("malformed transcript")
    roles = [SHAREGPT_ROLES.get(name.lower(), "assistant") for name in turns[::2]]
    return read_messages([message(role, content.strip()) for role, content in zip(roles, turns[1::2], strict=True)])


def check_turns(messages: Messages, last: str) -> Messages:
    """Return the messages if user and assistant take turns and the last turn is of the role `last`; otherwise raise."""
    turns = [turn["role"] for turn in messages]
    if turns[0] == "system":
        turns = turns[1:]
    if any(role != ROLES[1 + index % 2] for index, role in enumerate(turns)):
        raise Unusable("user and assistant do not take turns")
    if not turns or turns[-1] != last:
        raise Unusable("the last turn is not a reply" if last == "assistant" else "the last turn is not a request")
    return messages
