"""A suite from a user's file: questions with answers, or with choices, or conversations as SFT trains on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError
from eval.suite_rows.answer_match import exact_match, final_answer_match, normalise
from eval.suite_rows.column_mapping import parse_columns
from eval.suite_rows.held_out_rows import load_rows, read_held_out
from eval.suite_rows.question_rows import has_final_answers, read_questions

if TYPE_CHECKING:
    from lm_eval.api.task import Task

__all__ = ["exact_match", "normalise", "question_task", "read_questions"]

MATCHES = ("exact", "final")
MAX_GEN_TOKS = {"exact": 64, "final": 256}  # final: the reasoning comes first
UNTIL = {"exact": ["\n"], "final": ["\nQuestion:"]}  # in plain format; a turn ends by itself


def question_task(file: Path, format: str, match: str | None = None, columns: object = None) -> Task:
    """Make the task of a file of {question, answer} rows, of {question, choices, answer} rows, or of rows for SFT.

    Without choices, replies are generated and compared; `answer` may be a list of right answers. With choices, the task
    is multiple choice. Of rows for SFT, the last reply is the answer.

    Args:
        file: JSON lines, JSON, CSV, TSV, Parquet or Arrow.
        format: plain or chat.
        match: `exact` compares whole replies after normalisation, `final` their final answer; by default final if the
            answers are worked solutions that end in `#### ANSWER`.
        columns: the file's columns -> recognised columns, as `parse_columns` reads them.

    Raises:
        UserError: rows lack these columns, mix both kinds, or have an answer that is not a choice.
    """
    from lm_eval.api.task import ConfigurableTask

    mapping = None if columns is None else parse_columns(columns, f"the suite {file}")
    rows = read_held_out(file, mapping)
    settings = task_settings(file, rows, format, match) | {"dataset_kwargs": {"file": str(file), "columns": mapping}}
    if "turns" not in rows[0]:
        return ConfigurableTask(config=settings)
    from eval.conditions.conversation_task import ConversationTask

    return ConversationTask(config=settings)


def task_settings(file: Path, rows: list[dict], format: str, match: str | None) -> dict:
    """Make lm-eval's settings for a file's rows."""
    shared = {
        "task": file.stem,
        "custom_dataset": load_rows,
        "test_split": "test",
        "fewshot_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:" if format == "plain" else "question",
        "fewshot_delimiter": "\n\n",
    }
    if match not in (None, *MATCHES):
        raise UserError(f"{file} cannot be compared in this way.", got=f"match={match}", expected=" or ".join(MATCHES))
    if "choices" in rows[0]:
        if match:
            raise UserError(f"{file} has choices, which are scored, not compared.", got=f"match={match}")
        metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
        return shared | {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": metrics,
        }
    way = match or ("final" if has_final_answers(file, rows) else "exact")
    until = UNTIL[way] if format == "plain" else []
    return shared | {
        "output_type": "generate_until",
        "doc_to_target": "target",
        "generation_kwargs": {"until": until, "do_sample": False, "max_gen_toks": MAX_GEN_TOKS[way]},
        "process_results": final_answer_match if way == "final" else exact_match,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
