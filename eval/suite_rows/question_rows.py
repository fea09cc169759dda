"""Rows of a user's question file: columns by their names, answers, and choices in the forms that files have."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Any

from alignment.errors import UserError, raise_all
from eval.suite_rows.column_mapping import suggested
from eval.suite_rows.local_rows import no_rows, rows_as_written
from eval.suite_rows.row_checks import first_problems

logger = logging.getLogger(__name__)

# Names of a column, in order of preference; case, spaces, `_` and `-` do not count.
NAMES = {
    "question": ("question", "query", "problem", "prompt", "instruction", "input"),
    "answer": ("answer", "answers", "target", "label", "answerkey", "correctanswer", "gold", "correct", "solution"),
    "choices": ("choices", "options"),
}
# A column per choice: A, option_b, choice1, ending0, opa.
LETTERED = re.compile(r"(option|choice|opt|op|answer|ans|ending|alternative|sol|solution|)([a-z]|\d{1,2})")
CONTEXT = re.compile(
    r"contexts?|passages?|articles?|documents?|support|story|input|paragraphs?|premise|text|background|system|body"
    r"|instructions?|system(?:prompt|message)|facts?|evidence|hypothesis|table|code|dialogue|conversation|history"
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LISTED_CHOICE = re.compile(r"(?:^|[\s,])\(?([A-Za-z]|\d{1,2})(?:[).:]| \))\s*(?=\S)")
QUOTED = re.compile(
    r"\[\s*((?:'[^']*'|\"[^\"]*\")(?:[\s,]+(?:'[^']*'|\"[^\"]*\"))*)\s*\]"
)  # a list as pandas prints it
AROUND = " ().:"  # signs before and after a label
LABELLED = re.compile(r"\(?([A-Z]|\d{1,2})[).:]\s*(.+)", re.DOTALL | re.IGNORECASE)  # B. green
PLAIN_NUMBER = re.compile(r"[-+]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})", re.ASCII)
FINAL = re.compile(r"####[ \t]*\S|\\boxed\s*\{")


def read_questions(file: Path, rows: list[dict] | None = None, shown: Collection[str] = ()) -> list[dict]:
    """Read the rows of a question file, with values as the file has them.

    Args:
        rows: the file's rows, if they have been read.
        shown: further columns that the prompt shows.

    Returns:
        Rows with `question` and `answers` (texts), or `question`, `choices` (texts) and `answer` (a number from 0), and
        with `id` and `cluster` if the file has them.

    Raises:
        UserError: the file has no such rows, or a column that may belong to the prompt and differs by row is left out;
            the problems of several rows are reported together.
    """
    given = named_rows(file) if rows is None else rows
    columns = _columns_of(file, given)
    require_shown(file, given, columns, shown)
    problems: list[UserError] = []
    rows = []
    with_choices = next((_has_choices(row, columns) for row in given if _asks(row, columns)), False)
    for number, row in enumerate(given, 1):
        try:
            rows.append(_question(row, columns, with_choices) | {"row": number})
        except ValueError as error:
            shown = {key: value for key, value in row.items() if value is not None}
            problems.append(UserError(f"{file}, row {number}: {error}", got=shown))
    if with_choices:
        problems += _choose(file, rows)
    raise_all(first_problems(problems))
    return [
        {key: value for key, value in row.items() if key not in ("row", "labels", "written", "places")} for row in rows
    ]


def named_rows(file: Path) -> list[dict[str, Any]]:
    """Read all rows of a file; names of columns are text.

    Raises:
        UserError: there are none.
    """
    rows = [{str(key): value for key, value in row.items()} for row in rows_as_written(file)]
    if not rows:
        raise no_rows(file)
    return rows


def has_final_answers(file: Path, rows: list[dict]) -> bool:
    """Whether the answers are worked solutions that mark the final answer, as GSM8K's #### and MATH's boxes do.

    Raises:
        UserError: only some of them are.
    """
    lacking = [number for number, row in enumerate(rows, 1) if not all(map(FINAL.search, row["answers"]))]
    if 0 < len(lacking) < len(rows):
        raise UserError(
            f"{file}: some answers mark a final answer by #### or \\boxed{{}}, and others do not.",
            got=f"{len(lacking)} of {len(rows)} rows without it, the first is row {lacking[0]}",
            expected="a marked final answer in every row, or in none",
            fix=f"add it to those rows, or compare whole answers: --suite '{file}?match=exact'",
        )
    return not lacking


def _columns_of(file: Path, rows: list[dict]) -> dict[str, Any]:
    """Role -> the file's column; `choices` may be several columns, as {label: column}."""
    names = names_of(rows)
    plain = {name: plain_name(name) for name in names}
    found: dict[str, Any] = asking_columns(names)
    if found["choices"] is None:
        found["choices"] = _lettered(file, {name: plain[name] for name in names if name not in found.values()})
    for role in ("question", "answer"):
        if found[role] is None:
            raise UserError(
                f"{file} has no column with the {role}.",
                got=f"columns {', '.join(names)}",
                expected=f"{role} (or {', '.join(NAMES[role][1:])})",
                fix=f"rename the column that holds the {role} to `{role}`, or write an lm-eval YAML for these columns",
            )
    return found


def require_shown(file: Path, rows: list[dict], columns: dict[str, Any], shown: Collection[str]) -> None:
    """Warn of a column that may belong to the prompt and is left out, and refuse it if it differs by row.

    Args:
        columns: as `_columns_of` returns them.
        shown: columns that the prompt shows besides the question's.
    """
    question = columns["question"]
    used = {question, columns["answer"], *_choice_columns(columns["choices"]), *shown}
    unread = [name for name in names_of(rows) if name not in used and CONTEXT.fullmatch(plain_name(name))]
    differing = [name for name in unread if _differs_unseen(rows, name, question)]
    if differing:
        raise left_out_column(file, differing[0], question, rows)
    if unread:
        logger.warning(
            "%s: the prompt is the column %s alone, without %s; an lm-eval YAML (docs/your-own-suite.md) can show both",
            *(file, question, ", ".join(unread)),
        )


def _differs_unseen(rows: list[dict], name: str, question: str) -> bool:
    """Whether a column's values differ by row, and the questions do not contain them."""
    values = {json.dumps(row.get(name), sort_keys=True, default=str) for row in rows}
    return len(values) > 1 and any(str(row[name]) not in str(row.get(question)) for row in rows if row.get(name))


def left_out_column(file: Path, name: str, shown: str, rows: list[dict]) -> UserError:
    """The error for a column that differs by row, may belong to the prompt, and is not shown."""
    names = names_of(rows)
    holders = (*(["system"] if "system" in plain_name(name) else []), "context", "input")
    target = next((word for word in holders if word not in names), None)
    apart = f"leave it out with {suggested(file, {name: f'data_{name}'})}"
    show = f"show it with {suggested(file, {name: target})}" if target else "write it into the question"
    return UserError(
        f"{file}: the column {name} differs by row, and the prompt would not show it.",
        got=f"the prompt from {shown}; columns {', '.join(names)}",
        expected="a prompt that holds all that the answer depends on",
        fix=f"{show} (training takes the same `columns`); or, if it is not part of the prompt, {apart}",
    )


def names_of(rows: list[dict]) -> list[str]:
    """The columns of rows, in the order in which they appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def plain_name(name: str) -> str:
    """A column's name without what does not count: case, spaces, `_` and `-`."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def asking_columns(names: list[str]) -> dict[str, str | None]:
    """Role -> the first of the columns that is named so, or None."""
    plain = {name: plain_name(name) for name in names}
    return {
        role: next((name for alias in aliases for name in names if plain[name] == alias), None)
        for role, aliases in NAMES.items()
    }


def _lettered(file: Path, plain: dict[str, str]) -> dict[str, str] | None:
    """The columns with a choice each, as {label: column}: A, B, ...; 1, 2, ...; or 0, 1, ... after the same word.

    Raises:
        UserError: columns are named so, but a choice between them is missing.
    """
    series: dict[str, dict[str, str]] = {}
    for name, word in plain.items():
        if match := LETTERED.fullmatch(word):
            series.setdefault(match[1], {})[match[2].upper()] = name
    if (bare := series.get("")) and "J" not in bare:  # n or x is some other column
        series[""] = {label: name for label, name in bare.items() if label < "K"}
    whole = [ordered for labels in series.values() if (ordered := _run(labels))]
    if whole:
        return max(whole, key=len)
    partial = next((list(labels.values()) for labels in series.values() if _has_gap(list(labels))), None)
    if partial:
        raise UserError(
            f"{file} seems to have a column per choice, but some are missing.",
            got=f"columns {', '.join(partial)}",
            expected="A, B, C, ... or 1, 2, 3, ... without a gap",
            fix="rename them in this way, or, if they are not choices, to longer names",
        )
    return None


def _run(labels: dict[str, str]) -> dict[str, str] | None:
    """The labels in order if they have no gap, and are at least two."""
    ordered = dict(sorted(labels.items(), key=lambda item: (len(item[0]), item[0])))
    count = len(ordered)
    runs = [list(LETTERS[:count]), *([str(first + place) for place in range(count)] for first in (0, 1))]
    return ordered if count > 1 and list(ordered) in runs else None


def _has_gap(labels: list[str]) -> bool:
    """Whether labels begin like a run: A, B, D, but not X, Y."""
    return any({*start} <= {*labels} for start in ("AB", "AC", "01", "12"))


def _choice_columns(columns: object) -> list[str]:
    return list(columns.values()) if isinstance(columns, dict) else [str(columns)]


def _asks(row: dict, columns: dict) -> bool:
    return row.get(columns["question"]) is not None and row.get(columns["answer"]) is not None


def _has_choices(row: dict, columns: dict) -> bool:
    return columns["choices"] is not None and any(
        row.get(name) is not None for name in _choice_columns(columns["choices"])
    )


def _question(row: dict, columns: dict, with_choices: bool) -> dict:
    """Read a row; raise ValueError with the problem."""
    missing = [role for role in ("question", "answer") if row.get(columns[role]) is None]
    if missing:
        states = [f"{columns[role]} is {'null' if columns[role] in row else 'missing'}" for role in missing]
        raise ValueError(f"needs question and answer ({', '.join(states)})")
    if _has_choices(row, columns) != with_choices:
        raise ValueError("all rows must have choices, or none")
    kept = {key: str(row[key]) for key in ("id", "cluster") if row.get(key) is not None}
    kept["question"] = _text(row[columns["question"]], "question")
    answer = row[columns["answer"]]
    if not with_choices:
        answers = _answers(answer)
        return kept | {"answers": answers, "target": answers[0]}
    values, labels, places = _choices(_given_choices(row, columns["choices"]))
    choices = [_text(value, "a choice") for value in values]
    read = {"labels": labels, "written": values, "places": places}
    return kept | {"choices": choices, "answer": answer} | read


def _text(value: object, what: str) -> str:
    if isinstance(value, (list, dict)):
        raise ValueError(f"{what} must be text, not {'a list' if isinstance(value, list) else 'an object'}")
    if value is None or not str(value).strip():
        raise ValueError(f"{what} is {'null' if value is None else 'empty'}")
    return str(value)


def _answers(answer: Any) -> list[str]:
    """The texts of one right answer, of a list of them, or of SQuAD's {text: [...]} and TriviaQA's {value, aliases}."""
    if isinstance(answer, list) and answer and all(isinstance(one, dict) for one in answer):
        return list(dict.fromkeys(text for one in answer for text in _answers(one)))
    if isinstance(answer, dict):
        accepted = answer.get("text") or [answer.get("value"), *(answer.get("aliases") or [])]
        answer = accepted if isinstance(accepted, list) else [accepted]
    if not isinstance(answer, list):
        return [_text(answer, "answer")]
    if not answer:
        raise ValueError("answer is an empty list")
    return list(dict.fromkeys(_text(value, "an answer") for value in answer))


def _given_choices(row: dict, columns: Any) -> Any:
    if not isinstance(columns, dict):
        return row[columns]
    return {label: row.get(name) for label, name in columns.items()}


def _choices(given: Any) -> tuple[list, list[str], list[int]]:
    """(choices, their labels, their numbers) of a list, {text, label}, {label: text}, or text with any of these.

    A choice that a column or key has no value for is left out; the others keep their labels and numbers.
    """
    if isinstance(given, str):
        given = _parsed(given)
    if isinstance(given, list) and given and all(isinstance(part, dict) and "text" in part for part in given):
        given = {"text": [part["text"] for part in given], "label": [part.get("label") for part in given]}
    labels: list = []
    places: list[int] = []
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        given, labels = given["text"], given.get("label") or []
    elif isinstance(given, dict):
        there = {label: (place, value) for place, (label, value) in enumerate(given.items()) if value not in (None, "")}
        places, labels = [place for place, _ in there.values()], list(there)
        given = [value for _, value in there.values()]
    if not isinstance(given, list):
        raise ValueError("choices must be a list")
    if len(given) < 2:
        raise ValueError("needs at least two choices" if given else "choices is empty")
    named = len(labels) == len(given) and None not in labels
    labels = [str(label).strip(AROUND).upper() for label in labels] if named else list(LETTERS[: len(given)])
    return given, labels, places or list(range(len(given)))


def _parsed(text: str) -> Any:
    """Choices in a text: JSON, a printed list, one per line, or `A) red B) green`."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if isinstance(found, (list, dict)):
        return found
    if printed := QUOTED.fullmatch(text.strip()):
        return [part[1:-1] for part in re.findall(r"'[^']*'|\"[^\"]*\"", printed[1])]
    head, *parts = LISTED_CHOICE.split(text)
    labels, texts = [label.upper() for label in parts[::2]], [part.strip(" \t\n,") for part in parts[1::2]]
    if _run(dict.fromkeys(labels, "")) and not head.strip() and len(set(labels)) == len(labels):
        return dict(zip(labels, texts, strict=True))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise ValueError('choices must be a list, such as ["red", "green"], or text such as A) red B) green')
    return lines


def _choose(file: Path, rows: list[dict]) -> list[UserError]:
    """Replace each row's `answer` by the number of the right choice; return the problems.

    An answer is a choice, the label of a choice, or its number from 0, in this order of preference, and in the same way
    in all rows if possible: 2 is a number if other rows have the answers 0 and 1, which are none of their choices.
    """
    readings = [_readings(row["answer"], row["written"], row["labels"], row["places"]) for row in rows]
    common = [way for way in ("choice", "label", "number") if all(way in found for found in readings)]
    problems, doubtful = [], []
    for row, found in zip(rows, readings, strict=True):
        way = common[0] if common else next(iter(found), None)
        if way is None:
            problem = "answer must be one of the choices, its label (A, B, ...), or its number from 0"
            problems.append(UserError(f"{file}, row {row['row']}: {problem}", got=_shown(row)))
            continue
        if len(set(found.values())) > 1:
            doubtful.append((row, way))
        if row["choices"].count(row["choices"][found[way]]) > 1:
            problem = "the right choice is there twice"
            problems.append(UserError(f"{file}, row {row['row']}: {problem}", got=_shown(row)))
        row["answer"] = found[way]
    if doubtful and not problems:
        row, way = doubtful[0]
        logger.warning(
            "%s: %d answers could be a choice or the number of a choice, and are read as the %s (row %d: %s of %s)",
            *(file, len(doubtful), way, row["row"], row["choices"][row["answer"]], ", ".join(row["choices"])),
        )
    return problems


def _readings(answer: Any, choices: list, labels: list[str], places: list[int]) -> dict[str, int]:
    """Ways to read an answer -> the place of the choice."""
    if isinstance(answer, list) and len(answer) == 1:
        (answer,) = answer
    found = {}
    exact = [place for place, choice in enumerate(choices) if _exactly(answer, choice)]
    same = exact or [place for place, choice in enumerate(choices) if _same_value(answer, choice)]
    if same:
        found["choice"] = same[0]
    label = str(answer).strip(AROUND).upper()
    if not isinstance(answer, (bool, list, dict)) and label in labels:
        found["label"] = labels.index(label)
    number = _whole(answer)
    if number in places:
        found["number"] = places.index(number)
    return found or _loose_readings(answer, choices, labels)


def _loose_readings(answer: Any, choices: list, labels: list[str]) -> dict[str, int]:
    """Readings of a text that is nothing else: `B. green`, option_b, or a choice but for upper case."""
    if not isinstance(answer, str):
        return {}
    if (match := LABELLED.fullmatch(answer.strip())) and (label := match[1].upper()) in labels:
        place = labels.index(label)
        return {"label": place} if _same_value(match[2], choices[place]) else {}
    match = LETTERED.fullmatch(re.sub(r"[\s_-]+", "", answer).casefold())
    if match and match[1] and match[2].upper() in labels:
        return {"label": labels.index(match[2].upper())}
    same = [
        place for place, choice in enumerate(choices) if str(choice).strip().casefold() == answer.strip().casefold()
    ]
    return {"choice": same[0]} if len(same) == 1 else {}


def _exactly(answer: Any, choice: Any) -> bool:
    return type(answer) is type(choice) and answer == choice


def _same_value(answer: Any, choice: Any) -> bool:
    """Whether two values are equal: texts as texts, and numbers, true and false also where one of them is text."""
    if isinstance(answer, str) and isinstance(choice, str):
        return answer.strip() == choice.strip()
    found = _value(answer)
    return found is not None and found == _value(choice)


def _value(value: Any) -> tuple[str, Decimal | str] | None:
    if isinstance(value, bool):
        return "truth", str(value).casefold()
    if isinstance(value, str) and value.strip().casefold() in ("true", "false"):
        return "truth", value.strip().casefold()
    if isinstance(value, (int, float)) or (isinstance(value, str) and PLAIN_NUMBER.fullmatch(value.strip())):
        return "number", Decimal(str(value).strip())
    return None


def _whole(answer: Any) -> int | None:
    if isinstance(answer, str):
        return int(answer) if re.fullmatch(r"\s*\d{1,3}\s*", answer, re.ASCII) else None
    is_number = isinstance(answer, (int, float)) and not isinstance(answer, bool)
    return int(answer) if is_number and float(answer).is_integer() else None


def _shown(row: dict) -> dict:
    return {key: row[key] for key in ("question", "choices", "answer")}
