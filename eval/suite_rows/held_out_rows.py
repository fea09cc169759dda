"""Rows of a suite's file: questions with answers or choices, or any rows that SFT trains on, with training's prompt.

A row of the second kind is a conversation: its last reply is the answer, and what precedes it is the prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data.columns.cell_values import Row, Unusable, is_blank
from alignment.data.reading.conversations import CONTENT_KEYS, ROLE_KEYS, is_conversation, is_transcript, take_turns
from alignment.data.reading.row_formats import DIALOGUES, MEANINGFUL, PARTS, REQUESTS, SYSTEMS, request_of
from alignment.errors import UserError, raise_all
from eval.suite_rows.column_mapping import renamed, suggested
from eval.suite_rows.local_rows import no_rows
from eval.suite_rows.question_rows import (
    CONTEXT,
    NAMES,
    asking_columns,
    left_out_column,
    named_rows,
    names_of,
    plain_name,
    read_questions,
)
from eval.suite_rows.row_checks import first_problems

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
Turns = list[dict[str, str]]
LONG_ANSWER = 40  # words, beyond which no reply equals an answer by chance of wording
TRIED_ROWS = 20  # first rows on which a suggested mapping is tried


def load_rows(file: str, columns: dict[str, str] | None = None, **_: object) -> dict[str, Dataset]:
    """The `custom_dataset` function of these tasks."""
    from datasets import Dataset

    return {"test": Dataset.from_list(read_held_out(Path(file), columns))}


def read_held_out(file: Path, columns: Mapping[str, str] | None = None) -> list[dict]:
    """Read the rows of a file.

    Args:
        columns: the file's columns -> recognised columns; applied first.

    Returns:
        Rows as `read_questions` returns them. `question` is the whole prompt as text; if any row's prompt is more than
        one turn of the user, the rows have `turns`, the messages of the prompt.

    Raises:
        UserError: the file has no such rows, or a column that may belong to the prompt and differs by row is left out.
    """
    rows = named_rows(file)
    if columns:
        rows = _renamed(file, rows, columns)
    if _are_questions(rows, columns or {}):
        return _questions(file, rows)
    return _conversations(file, rows, columns or {})


def _renamed(file: Path, rows: list[dict], columns: Mapping[str, str]) -> list[dict]:
    from datasets import Dataset

    from alignment.data.columns.column_names import rename_columns

    # For its refusals of names that lead nowhere; the values are those of the file.
    rename_columns(Dataset.from_dict({name: [_found(rows, name)] for name in names_of(rows)}), columns)
    return renamed(rows, columns)


def _found(rows: list[dict], name: str) -> Any:
    """The first value of a column that is not null."""
    return next((row[name] for row in rows if row.get(name) is not None), None)


def _are_questions(rows: list[dict], columns: Mapping[str, str]) -> bool:
    """Whether rows have questions and answers as texts, or choices, rather than messages."""
    found = asking_columns(names_of(rows))
    if None in (found["question"], found["answer"]) or set(DIALOGUES) & set(columns.values()):
        return False
    asked, answers = ([row.get(found[role]) for row in rows] for role in ("question", "answer"))
    return not (all(map(_are_turns, asked)) or all(map(_are_turns, answers)))


def _are_turns(value: Any) -> bool:
    """Whether a value is messages, or text in the form of a transcript; objects of other kinds are not."""
    if isinstance(value, str):
        return is_conversation(value) or is_transcript(value)
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(
        isinstance(turn, Mapping) and all(any(key in turn for key in keys) for keys in (ROLE_KEYS, CONTENT_KEYS))
        for turn in turns
    )


def _questions(file: Path, rows: list[dict]) -> list[dict]:
    """The rows of a question file; passages, inputs, earlier turns and system messages are shown as in training."""
    asked = asking_columns(names_of(rows))["question"]
    request = plain_name(str(asked))
    shown = [
        name
        for name in names_of(rows)
        if name in (*PARTS, *SYSTEMS) and name != asked and not all(is_blank(row.get(name)) for row in rows)
    ]
    questions = read_questions(file, rows, shown)
    if not shown or request not in REQUESTS:
        return questions
    problems: list[UserError] = []
    prompts: list[Turns] = []
    for number, source in enumerate(rows, 1):
        row = Row({name: source.get(name) for name in shown} | {request: source[asked]})
        try:
            prompts.append(take_turns(row, request_of(row, request), "user"))
        except Unusable as reason:
            problems.append(UserError(f"{file}, row {number}: {reason}", got=source))
    raise_all(first_problems(problems))
    return _with_prompts(questions, prompts)


def _with_prompts(rows: list[dict], prompts: list[Turns]) -> list[dict]:
    """The rows with their prompts as `question`, and as `turns` unless each is one turn of the user."""
    texts = ["\n\n".join(turn["content"] for turn in prompt) for prompt in prompts]
    single = all(len(prompt) == 1 for prompt in prompts)
    return [
        row | {"question": text} | ({} if single else {"turns": prompt})
        for row, text, prompt in zip(rows, texts, prompts, strict=True)
    ]


def _conversations(file: Path, rows: list[dict], columns: Mapping[str, str]) -> list[dict]:
    """The rows of a file of conversations, as SFT training reads them."""
    from alignment.data.reading.arrow_cache import NoRowsError
    from alignment.data.reading.files import read_files
    from alignment.data.reading.formats import convert, recognised

    try:
        source = read_files([file])
    except NoRowsError:
        raise no_rows(file) from None
    try:
        renamed_source, format = recognised(source, "sft", columns)
    except UserError as error:
        raise _not_recognised(file, rows, error) from None
    found, report = convert(source, "sft", columns=columns, keep=("id", "cluster"))
    if report.dropped:
        logger.warning("%s: rows that training would drop are left out: %s", file, report)
    _require_shown(file, rows, [*report.unread, *_beyond_training(renamed_source.column_names, format)], format)
    _warn_of_long_answers(file, [row["messages"][-1]["content"] for row in found])
    kept = [name for name in ("id", "cluster") if name in found.column_names]
    answered = [
        {name: str(row[name]) for name in kept if row[name] is not None} | _answer(row["messages"]) for row in found
    ]
    return _with_prompts(answered, [row["messages"][:-1] for row in found])


def _answer(messages: Turns) -> dict[str, Any]:
    reply = messages[-1]["content"]
    return {"answers": [reply], "target": reply}


def _beyond_training(names: list[str], format: tuple[str, ...]) -> list[str]:
    """The columns that may belong to a prompt by their names, which training does not look at."""
    known = (*format, *MEANINGFUL, *DIALOGUES, *PARTS)
    return [name for name in names if name.lower() not in known and CONTEXT.fullmatch(plain_name(name))]


def _require_shown(file: Path, rows: list[dict], unread: list[str], format: tuple[str, ...]) -> None:
    """Refuse columns that differ by row and whose text the conversations lack; name the others in a warning."""
    there = [name for name in unread if any(not is_blank(row.get(name)) for row in rows)]
    differing = [name for name in there if len({str(row.get(name)) for row in rows}) > 1]
    if differing:
        raise left_out_column(file, differing[0], " and ".join(format), rows)
    if there:
        logger.warning("%s: the prompt is without %s, as in training", file, ", ".join(there))


def _warn_of_long_answers(file: Path, answers: list[str]) -> None:
    count = sum(len(answer.split()) > LONG_ANSWER for answer in answers)
    if count > len(answers) / 2:
        logger.warning(
            "%s: %d of %d answers are longer than %d words, and a reply is right only if it equals the whole answer; "
            "a judge compares long replies (docs/sampling.md)",
            *(file, count, len(answers), LONG_ANSWER),
        )


def _not_recognised(file: Path, rows: list[dict], error: UserError) -> UserError:
    """The error for a file that is neither questions with answers nor data for SFT."""
    from alignment.data.reading.suggestions import suggest

    names = names_of(rows)
    missing = [role for role, name in asking_columns(names).items() if role != "choices" and name is None]
    named = " and ".join(missing) or "conversation"
    roles = (f"{role} ({', '.join(NAMES[role])})" for role in missing or ("question", "answer"))
    mapping = suggest(rows[:TRIED_ROWS], "sft", None)
    return UserError(
        f"{file} has no column with the {named}.",
        got=f"columns {', '.join(names)}",
        expected=f"{' and '.join(roles)}; or rows for SFT: {error.expected}",
        fix=suggested(file, mapping)
        if mapping
        else f"name the columns, such as {suggested(file, dict(zip(names, missing, strict=False)))}, or write an "
        "lm-eval YAML for these columns (docs/your-own-suite.md)",
    )
