"""A suite from a user's JSONL file: questions with answers, or with choices."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError, raise_all

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN_PROBLEMS = 5
MAX_GEN_TOKS = 64


def question_task(file: Path, format: str) -> dict:
    """Make lm-eval's settings for a file of {question, answer} rows, or of {question, choices, answer} rows.

    Without choices, replies are generated (in plain format up to the end of the line) and matched after normalisation;
    `answer` may be a list of right answers. With choices, the task is multiple choice; `answer` is a choice or its
    number from 0.

    Raises:
        UserError: rows lack these keys, mix both kinds, or have an answer that is not a choice.
    """
    rows = read_questions(file)
    shared = {
        "task": file.stem,
        "custom_dataset": load_questions,
        "dataset_kwargs": {"file": str(file)},
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:" if format == "plain" else "{{question}}",
        "fewshot_delimiter": "\n\n",
    }
    if "choices" in rows[0]:
        metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
        return shared | {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": metrics,
        }
    until = ["\n"] if format == "plain" else []
    return shared | {
        "output_type": "generate_until",
        "doc_to_target": "{{answers[0]}}",
        "generation_kwargs": {"until": until, "do_sample": False, "max_gen_toks": MAX_GEN_TOKS},
        "process_results": exact_match,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


def load_questions(file: str, **_: object) -> dict[str, Dataset]:
    """The `custom_dataset` function of these tasks."""
    from datasets import Dataset

    return {"test": Dataset.from_list(read_questions(Path(file)))}


def read_questions(file: Path) -> list[dict]:
    """Read the rows, with `answers` (texts) or with `choices` and `answer` (a number); other keys are kept."""
    from alignment.data.reading.files import local_files, read_files

    rows: list[dict] = []
    problems: list[UserError] = []
    for number, row in enumerate(read_files(local_files(str(file))), 1):
        given = {key: value for key, value in row.items() if value is not None}
        problem = _problem(given, with_choices="choices" in rows[0] if rows else "choices" in given)
        if problem:
            problems.append(UserError(f"{file}, row {number}: {problem}", got=given))
        else:
            answer = given.pop("answer")  # one column of a data set cannot hold texts, lists and numbers
            choice = _choice(given, answer) if "choices" in given else None
            rows.append(given | (choice or {"answers": _answers(answer)}))
    if problems:
        left = len(problems) - SHOWN_PROBLEMS
        raise_all(problems[:SHOWN_PROBLEMS] + ([UserError(f"... and {left} more such rows")] if left > 0 else []))
    return rows


def exact_match(doc: dict, results: list[str]) -> dict[str, float]:
    """Return 1.0 if the reply is one of the answers, ignoring case, punctuation, articles and white space."""
    return {"exact_match": float(normalise(results[0]) in {normalise(answer) for answer in doc["answers"]})}


def normalise(text: str) -> str:
    """Normalise like SQuAD's evaluation: lower case, without punctuation, articles and redundant white space."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split()) or kept.strip()


def _problem(row: dict, with_choices: bool) -> str | None:
    if not {"question", "answer"} <= set(row):
        return "needs question and answer"
    if ("choices" in row) != with_choices:
        return "all rows must have choices, or none"
    if with_choices and _choice(row, row["answer"]) is None:
        return "answer must be one of the choices, or its number from 0"
    return None


def _choice(row: dict, answer: object) -> dict | None:
    """`choices` as texts and the `answer`'s number; None if the answer is not a choice."""
    choices = [str(choice) for choice in row["choices"]]
    if isinstance(answer, str) and answer in choices:
        return {"choices": choices, "answer": choices.index(answer)}
    number = int(str(answer)) if str(answer).isdigit() else -1
    return {"choices": choices, "answer": number} if 0 <= number < len(choices) else None


def _answers(answer: object) -> list[str]:
    return [str(text) for text in answer] if isinstance(answer, list) else [str(answer)]
