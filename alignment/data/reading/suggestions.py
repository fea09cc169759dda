"""Suggestions for `columns`: mappings by the names and the contents of columns, tried on the first rows."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignment.data.columns.cell_values import Row, Unusable
from alignment.data.columns.column_names import nested_names, value_at
from alignment.data.columns.reply_labels import Labels
from alignment.data.reading.conversations import is_conversation
from alignment.data.reading.row_formats import LABEL, Format, canonical_rows_of

SIMILAR, USABLE = 0.8, 0.9  # least similarity of names; least share of the first rows that a mapping must convert
# Recognised column -> words by which other files name it.
ALIKE = {
    "prompt": (
        "prompt",
        "request",
        "user",
        "human",
        "ask",
        "instruction",
        "question",
        "query",
        "problem",
        "task",
        "input",
    ),
    "question": (
        "question",
        "q",
        "ask",
        "prompt",
        "request",
        "instruction",
        "query",
        "user",
        "human",
        "problem",
        "input",
    ),
    "answer": (
        "answer",
        "a",
        "response",
        "reply",
        "output",
        "completion",
        "assistant",
        "bot",
        "say",
        "solution",
        "target",
    ),
    "completion": ("completion", "response", "reply", "output", "answer", "assistant", "generation"),
    "chosen": ("chosen", "preferred", "winner", "better", "win", "accepted"),
    "rejected": ("rejected", "dispreferred", "loser", "worse", "lose"),
    "label": ("label", "tag", "desirable", "good"),
    "text": ("text", "body", "content", "document", "article", "story", "passage", "raw"),
}
DIALOGUE_WORDS = {"chat", "conversation", "conversations", "dialog", "dialogue", "messages", "turns"}
# Words in the name of a column that holds no text to learn from.
NO_TEXT = {
    "id",
    "ids",
    "idx",
    "index",
    "source",
    "score",
    "type",
    "category",
    "title",
    "url",
    "date",
    "lang",
    "language",
}
# The formats that are tried, in order. Conversations and transcripts are recognised by content alone.
TRIED: dict[str, tuple[Format, ...]] = {
    "text": (("text",),),
    "sft": (("messages",), ("transcript",), ("question", "answer")),
    "preference": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "prompts": (("prompt",), ("messages",), ("transcript",)),
    "kto": (("prompt", "completion", "label"), ("messages", "label")),
}


def suggest(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, str] | None:
    """Return a mapping {column: recognised column} that converts the first rows, or None if nothing speaks for one.

    Args:
        rows: the first rows of the data set.
    """
    names = [*rows[0], *nested_names(rows[0])] if rows else []
    for format in TRIED[kind]:
        for columns in _assignments(rows, names, format):
            if _works(rows, kind, format, columns):
                return {theirs: ours for theirs, ours in columns.items() if theirs != ours}
    return None


def written(columns: Mapping[str, str]) -> str:
    """Return a mapping as a recipe writes it."""
    pairs = (f"{_quoted(theirs)}: {ours}" for theirs, ours in columns.items())
    return f"columns: {{{', '.join(pairs)}}}"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w.-]*", name) else json.dumps(name, ensure_ascii=False)


def _assignments(rows: Sequence[Mapping[str, Any]], names: Sequence[str], format: Format) -> Iterator[dict[str, str]]:
    """Yield mappings of columns to a format's columns, those with the most similar names first."""
    choices = []
    for ours in format:
        scored = [(_likeness(rows, name, ours), name) for name in names]
        choices.append(sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: -pair[0])[:3])
    found: list[tuple[float, int, dict[str, str]]] = []
    for chosen in itertools.product(*choices):
        columns = {name: ours for (_, name), ours in zip(chosen, format, strict=True)}
        if len(columns) == len(format):
            found.append((-sum(score for score, _ in chosen), len(found), columns))
    yield from (columns for _, _, columns in sorted(found, key=lambda one: one[:2]))


def _likeness(rows: Sequence[Mapping[str, Any]], name: str, ours: str) -> float:
    """Return how much speaks for reading a column as `ours`, from 0 to 1."""
    if name == ours:
        return 1.0
    values = [_value(row, name) for row in rows]
    if ours == "messages":
        return 0.9 * all(is_conversation(value) or _is_dialogue(name, value) for value in values)
    if ours == "transcript":
        return 0.9 * all(isinstance(value, str) for value in values)
    if ours != LABEL and any(isinstance(value, bool) for value in values):
        return 0.0
    words = _words(name)
    if set(words) & NO_TEXT:
        return 0.0
    return max((_similar(words, known) * 0.99**place for place, known in enumerate(ALIKE[ours])), default=0.0)


def _is_dialogue(name: str, value: Any) -> bool:
    """Whether a value is several texts in a column that is named as a conversation."""
    texts = isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value)
    return texts and bool(DIALOGUE_WORDS & set(_words(name)))


def _similar(words: Sequence[str], known: str) -> float:
    """Return the similarity of a column's name and a word: of the whole name, or a little less of a word in it."""
    if len(words) == 1:
        near = difflib.SequenceMatcher(None, words[0], known).ratio()
        return 0.95 * near if near >= SIMILAR else 0.0
    return 0.85 if known in words and len(known) > 1 else 0.0


def _words(name: str) -> list[str]:
    """Return the words of a column's name; of a path, of its last part."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name.rpartition(".")[2])
    return re.findall(r"[a-z]+", spaced.lower())


def _value(row: Mapping[str, Any], name: str) -> Any:
    return row[name] if name in row else value_at(row.get(name.partition(".")[0]), name.split(".")[1:])


def _works(rows: Sequence[Mapping[str, Any]], kind: str, format: Format, columns: Mapping[str, str]) -> bool:
    """Whether a mapping makes nearly all of the rows usable."""
    renamed = [
        {name: value for name, value in row.items() if name not in columns}
        | {ours: _value(row, theirs) for theirs, ours in columns.items()}
        for row in rows
    ]
    if LABEL in format:
        labels = Labels(row[LABEL] for row in renamed)
        if not labels.judge:
            return False
        renamed = [{**row, LABEL: labels.read(row[LABEL])} for row in renamed]
    usable = [
        not any(isinstance(one, Unusable) for one in canonical_rows_of(Row(row), kind, format)) for row in renamed
    ]
    return sum(usable) >= USABLE * len(usable)
