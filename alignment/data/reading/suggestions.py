"""Suggestions for `columns`: mappings by the names and the contents of columns, tried on the first rows."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignment.data.columns.cell_values import Row, Unusable, is_blank
from alignment.data.columns.column_names import nested_names, value_at
from alignment.data.columns.reply_labels import Labels
from alignment.data.reading.conversations import is_conversation
from alignment.data.reading.row_formats import CHOICES, LABEL, READ_COLUMNS, REQUESTS, Format, canonical_rows_of

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
    "key",
    "keys",
    "letter",
    "length",
    "count",
}
# Words that turn the meaning of a name round, and words for what is unwanted, which only `rejected` may be.
NEGATING = {"not", "non", "no", "un", "never", "without"}
UNWANTED_WORDS = {
    *("wrong", "incorrect", "bad", "worse", "worst", "false", "negative", "invalid"),
    *("unsafe", "harmful", "toxic", "spam"),
    *("reject", "rejected", "dispreferred", "undesirable", "unwanted", "loser", "lose", "distractor"),
}
# Words that may be in a label's name: another (`spam_label`, `topic_tag`) says that it judges something else.
BESIDE_LABEL = {
    *("kto", "is", "was", "reply", "response", "completion", "answer", "output", "binary", "desirable", "good"),
    *("label", "tag"),
}
# Columns that belong to a request -> whether a name's words mean one.
BESIDE_REQUEST: dict[str, Callable[[Sequence[str]], bool]] = {
    "system": lambda words: "system" in words,
    "context": lambda words: "context" in words,
    "input": lambda words: list(words) == ["input"],
    "history": lambda words: list(words) == ["history"],
}
CHOICE_LETTERS = 2  # most characters of the name of a choice: "B", "b)"
OPEN = "???"  # stands for a recognised column that the user knows
MOST_SHOWN = 6
TO_COMPLETE: dict[str, Format] = {
    "text": ("text",),
    "sft": ("question", "answer"),
    "preference": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "kto": ("prompt", "completion", "label"),
}
# The formats that are tried, in order. Conversations and transcripts are recognised by content alone.
TRIED: dict[str, tuple[Format, ...]] = {
    "text": (("text",),),
    "sft": (("messages",), ("transcript",), ("question", "answer")),
    "preference": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "prompts": (("prompt",), ("messages",), ("transcript",)),
    "kto": (("prompt", "completion", "label"), ("messages", "label")),
}


def suggest(
    rows: Sequence[Mapping[str, Any]], kind: str, given: Mapping[str, str] | None = None
) -> dict[str, str] | None:
    """Return a mapping {column: recognised column} that converts the first rows, or None if nothing speaks for one.

    Nothing does either if two mappings are as likely as each other.

    Args:
        rows: the first rows of the data set, with its own names.
        given: the recipe's `columns`, whose recognised names the mapping keeps.
    """
    names = [*rows[0], *nested_names(rows[0])] if rows else []
    given = {theirs: ours for theirs, ours in (given or {}).items() if theirs in names}
    kept = {theirs: ours for theirs, ours in given.items() if ours in READ_COLUMNS}
    for format in TRIED[kind]:
        works = [
            (score, columns)
            for score, columns in _assignments(rows, names, format, kept)
            if _works(rows, kind, format, kept | columns)
        ]
        if works and (len(works) == 1 or works[0][0] > works[1][0]):
            columns = given | kept | works[0][1]
            columns |= _beside(rows, kind, format, columns)
            targets = {*works[0][1].values()}
            return {
                theirs: ours
                for theirs, ours in columns.items()
                if theirs != ours and (theirs in works[0][1] or ours not in targets)
            }
    return None


def to_complete(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, str]:
    """Return the columns with texts or marks that are not recognised, each with OPEN: the user knows what they are.

    Nothing is guessed by a name: `undesirable` would be read as the label whose opposite it is.
    """
    format = TO_COMPLETE[kind]
    shown = [name for name in rows[0] if _is_text(rows, name) or _is_mark(rows, name)] if rows else []
    names = [name for name in shown if LABEL in format or not _is_mark(rows, name)]
    return dict.fromkeys([name for name in names if name not in READ_COLUMNS][:MOST_SHOWN], OPEN)


def _is_mark(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column says yes or no about its row."""
    values = [value for row in rows if not is_blank(value := row.get(name))]
    return bool(values) and all(isinstance(value, int) and value in (0, 1) for value in values)


def _beside(rows: Sequence[Mapping[str, Any]], kind: str, format: Format, columns: Mapping[str, str]) -> dict[str, str]:
    """Return a mapping of the columns that belong to the request, such as `Context`, if it works."""
    found: dict[str, str] = {}
    if not set(format) & set(REQUESTS):
        return found
    for ours, means in BESIDE_REQUEST.items():
        alike = [name for name in rows[0] if name not in columns and means(_words(name)) and _is_text(rows, name)]
        taken = ours in rows[0] or ours in columns.values()
        if len(alike) == 1 and not taken and _works(rows, kind, format, {**columns, **found, alike[0]: ours}):
            found[alike[0]] = ours
    return found


def _is_text(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column holds texts, or lists of them, rather than numbers and marks."""
    values = [value for row in rows if not is_blank(value := row.get(name))]
    return not set(_words(name)) & NO_TEXT and bool(values) and all(isinstance(value, str | list) for value in values)


def written(columns: Mapping[str, str]) -> str:
    """Return a mapping as a recipe writes it."""
    pairs = (f"{_quoted(theirs)}: {_quoted(ours)}" for theirs, ours in columns.items())
    return f"columns: {{{', '.join(pairs)}}}"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w.-]*", name) else json.dumps(name, ensure_ascii=False)


def _assignments(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], format: Format, kept: Mapping[str, str]
) -> Iterator[tuple[float, dict[str, str]]]:
    """Yield the likeness and the mapping of columns to a format's columns, those with the most similar names first."""
    choices = []
    for ours in format:
        fixed = [name for name, target in kept.items() if target == ours]
        free = fixed or [name for name in names if name not in kept]
        scored = [(1.0 if fixed else _likeness(rows, name, ours), name) for name in free]
        choices.append(sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: -pair[0])[:3])
    found: list[tuple[float, dict[str, str]]] = []
    for chosen in itertools.product(*choices):
        columns = {name: ours for (_, name), ours in zip(chosen, format, strict=True)}
        if len(columns) == len(format):
            found.append((sum(score for score, _ in chosen), columns))
    yield from sorted(found, key=lambda one: -one[0])


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
    if _means_otherwise(words, ours) or (ours == "answer" and _names_choices(rows, values)):
        return 0.0
    return max((_similar(words, known) * 0.99**place for place, known in enumerate(ALIKE[ours])), default=0.0)


def _means_otherwise(words: Sequence[str], ours: str) -> bool:
    """Whether a word of a name says that the column is not what another word of it names."""
    if set(words) & (NO_TEXT | NEGATING):
        return True
    if ours == LABEL:
        return len(words) > 1 and not set(words) <= BESIDE_LABEL
    return (ours != "rejected" and bool(set(words) & UNWANTED_WORDS)) or (
        ours in ("prompt", "question", "answer", "completion") and "system" in words
    )


def _names_choices(rows: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> bool:
    """Whether values are the letters of choices, which say nothing without them."""
    choices = any(any(word in CHOICES for word in _words(name)) for name in rows[0])
    return choices and all(isinstance(value, str) and len(value.strip()) <= CHOICE_LETTERS for value in values)


def _is_dialogue(name: str, value: Any) -> bool:
    """Whether a value is several texts in a column that is named as a conversation."""
    texts = isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value)
    return texts and bool(DIALOGUE_WORDS & set(_words(name)))


def _similar(words: Sequence[str], known: str) -> float:
    """Return the similarity of a column's name and a word: of the whole name, or a little less of a word in it."""
    if len(words) == 1:
        if words[0] != known and words[0].endswith(known):
            return 0.0  # dispreferred, undesirable, incorrect
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
