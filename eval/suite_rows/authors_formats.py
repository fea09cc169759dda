"""Files of public suites as their authors publish them, brought to the columns of the hub's data sets.

lm-eval's templates are written for the hub's columns, which were made from these files; each conversion here gives the
columns, the values and the order that the hub has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError, raise_all
from eval.suite_rows.needed_columns import Needs

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
SHOWN_PROBLEMS = 5
LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class AuthorsFormat:
    """A form of rows.

    Attributes:
        applies: whether a file's first row has the form, and the task reads other columns.
        convert: a row as the hub has it.
    """

    applies: Callable[[Row, Needs], bool]
    convert: Callable[[Row, Needs], Row]


def in_hub_columns(rows: Dataset, needs: Needs, place: object) -> list[Row] | None:
    """The rows in the hub's columns; None if they have no form that is known, or are in these columns already.

    Raises:
        UserError: rows of `place` do not have the form that the first has.
    """
    first = rows[0]
    known = next((one for one in FORMATS if one.applies(first, needs)), None)
    if known is None:
        return None
    found, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            found.append(known.convert(row, needs))
        except (LookupError, TypeError, AttributeError, ValueError) as error:  # what an unexpected value leads to
            reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            problems.append(
                UserError(
                    f"{place}, row {number} does not fit the form of the file: {reason}.",
                    got=str(row)[:300],
                    fix="correct or remove the row",
                )
            )
    raise_all(problems[:SHOWN_PROBLEMS])
    kept = set(found[0]).intersection(*found)  # some rows have an id, and others none
    return [{name: value for name, value in row.items() if name != "id" or "id" in kept} for row in found]


def _has_stem(row: Row, needs: Needs) -> bool:
    question = row.get("question")
    return isinstance(question, dict) and "stem" in question and isinstance(question.get("choices"), list)


def _from_stem(row: Row, needs: Needs) -> Row:
    """A row of ARC, OpenBookQA and CommonsenseQA: `question` is {stem, choices: [{text, label}]}."""
    question = row["question"]
    asked = "question_stem" if "question_stem" in needs.columns else "question"
    concept = {"question_concept": question["question_concept"]} if "question_concept" in question else {}
    choices = {key: [str(choice[key]) for choice in question["choices"]] for key in ("text", "label")}
    key = row.get("answerKey")
    rest = {"choices": choices, "answerKey": None if key is None else str(key)}
    own = {"id": str(row["id"])} if row.get("id") is not None else {}
    return own | {asked: question["stem"]} | concept | rest


def _is_truthfulqa_csv(row: Row, needs: Needs) -> bool:
    return {"Question", "Best Answer", "Correct Answers", "Incorrect Answers"} <= row.keys()


def _from_truthfulqa_csv(row: Row, needs: Needs) -> Row:
    """A row of TruthfulQA.csv: mc1 is the best answer among the incorrect ones, mc2 all correct ones among them."""
    correct, incorrect = (_split_answers(row[f"{kind} Answers"]) for kind in ("Correct", "Incorrect"))
    best = (row["Best Answer"] or "").strip()
    if not {"mc1_targets", "mc2_targets"} & needs.columns:
        answers = {"best_answer": best, "correct_answers": correct, "incorrect_answers": incorrect}
        named = {"type": row.get("Type"), "category": row.get("Category"), "question": row["Question"]}
        return named | answers | {"source": row.get("Source")}
    return {
        "question": row["Question"],
        "mc1_targets": _targets([best], incorrect),
        "mc2_targets": _targets(correct, incorrect),
    }


def _split_answers(text: str | None) -> list[str]:
    return [answer.strip() for answer in (text or "").split(";") if answer.strip()]


def _targets(true: list[str], false: list[str]) -> Row:
    return {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)}


def _has_label_maps(row: Row, needs: Needs) -> bool:
    targets = row.get("mc1_targets")
    return isinstance(targets, dict) and "choices" not in targets and set(targets.values()) <= {0, 1, None}


def _from_label_maps(row: Row, needs: Needs) -> Row:
    """A row of TruthfulQA's mc_task.json: {answer: 1 or 0}; the true answers come first, as on the hub."""
    found: Row = {"question": row["question"]}
    for name in ("mc1_targets", "mc2_targets"):
        labels = {answer: label for answer, label in (row.get(name) or {}).items() if label is not None}
        found[name] = _targets(*([answer for answer, label in labels.items() if label == kind] for kind in (1, 0)))
    return found


def _is_boolq(row: Row, needs: Needs) -> bool:
    return (
        {"question", "passage", "answer"} <= row.keys()
        and "label" not in row
        and (row["answer"] is None or isinstance(row["answer"], bool))
        and needs.target == "label"
    )


def _from_boolq(row: Row, needs: Needs) -> Row:
    """A row of BoolQ; SuperGLUE, which lm-eval reads, puts the title before the passage."""
    title = f"{row['title']} -- " if row.get("title") else ""
    answer = row["answer"]
    label = {"label": None if answer is None else int(answer)}
    return {"question": row["question"], "passage": title + row["passage"]} | label


def _is_hellaswag(row: Row, needs: Needs) -> bool:
    return {"ctx", "endings", "activity_label", "label"} <= row.keys()


def _from_hellaswag(row: Row, needs: Needs) -> Row:
    """A row of HellaSwag: `label` is text on the hub, and a missing half of the context is empty."""
    label = row["label"]
    halves = {"ctx_a": row.get("ctx_a") or "", "ctx_b": row.get("ctx_b") or ""}
    if not any(halves.values()):
        halves["ctx_a"] = row["ctx"]
    whole = isinstance(label, float) and label.is_integer()
    return row | halves | {"label": None if label is None else str(int(label) if whole else label)}


def _has_letters(row: Row, needs: Needs) -> bool:
    return {"question", "answer", *LETTERS} <= row.keys() and "choices" not in row and "choices" in needs.columns


def _from_letters(row: Row, needs: Needs) -> Row:
    """A row of MMLU's CSV files: a column per choice, and a letter (or a number from 0) as the answer."""
    answer = str(row["answer"]).strip()
    letter = answer.strip("().").upper()
    if letter not in LETTERS and not answer.isdigit():
        raise ValueError(f"the answer {answer!r} is none of {', '.join(LETTERS)}")
    number = LETTERS.index(letter) if letter in LETTERS else int(answer)
    subject = {"subject": row["subject"]} if "subject" in row else {}
    return {"question": row["question"], "choices": [row[letter] for letter in LETTERS], "answer": number} | subject


def _is_winogrande(row: Row, needs: Needs) -> bool:
    return {"sentence", "option1", "option2", "answer"} <= row.keys() and not isinstance(row["answer"], str)


def _from_winogrande(row: Row, needs: Needs) -> Row:
    """A row of WinoGrande whose answer is the number of an option, as CSV files have it."""
    return row | {"answer": None if row["answer"] is None else str(row["answer"])}


def _has_targets(row: Row, needs: Needs) -> bool:
    """Whether a row is TruthfulQA's on the hub; of mc1 lm-eval takes the first choice as true, whatever its label."""
    targets = row.get("mc1_targets")
    return isinstance(targets, dict) and {"choices", "labels"} <= targets.keys()


def _true_first(row: Row, needs: Needs) -> Row:
    found = dict(row)
    for name in ("mc1_targets", "mc2_targets"):
        targets = row.get(name)
        if not isinstance(targets, dict) or not _is_labelled(targets):
            continue
        pairs = list(zip(targets["choices"], targets["labels"], strict=True))
        found[name] = _targets(*([choice for choice, label in pairs if label == kind] for kind in (1, 0)))
    return found


def _is_labelled(targets: Row) -> bool:
    choices, labels = targets.get("choices"), targets.get("labels")
    if not isinstance(choices, list) or not isinstance(labels, list):
        return False
    return len(choices) == len(labels) and {*labels} <= {0, 1}


def _is_race(row: Row, needs: Needs) -> bool:
    lists = (row.get(name) for name in ("questions", "options", "answers"))
    return "article" in row and "problems" not in row and all(isinstance(value, list) for value in lists)


def _from_race(row: Row, needs: Needs) -> Row:
    """A row of RACE: an article with its questions, which lm-eval's hub copy keeps in one text."""
    names = ("question", "answer", "options")
    columns = zip(row["questions"], row["answers"], row["options"], strict=True)
    return {"article": row["article"], "problems": str([dict(zip(names, one, strict=True)) for one in columns])}


FORMATS = (
    AuthorsFormat(_has_stem, _from_stem),
    AuthorsFormat(_is_truthfulqa_csv, _from_truthfulqa_csv),
    AuthorsFormat(_has_label_maps, _from_label_maps),
    AuthorsFormat(_is_boolq, _from_boolq),
    AuthorsFormat(_is_hellaswag, _from_hellaswag),
    AuthorsFormat(_has_letters, _from_letters),
    AuthorsFormat(_is_race, _from_race),
    AuthorsFormat(_is_winogrande, _from_winogrande),
    AuthorsFormat(_has_targets, _true_first),
)
