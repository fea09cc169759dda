"""Suites of any questions and options, on a tiny model: a score for every question, or a refusal."""

import json
import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas
import pytest
import ragged
from fuzzing import SCALARS, TEXTS, VALUES, fuzz, outcome
from hypothesis import given
from hypothesis import strategies as st

from eval.harness.run_suite import evaluate

ANSWERS = st.one_of(
    st.sampled_from(["4", 4, 2.5, "yes", ["yes", "Yes."], True, "A", "1,000", "\uff13"]), SCALARS, VALUES
)
CHOICES = st.one_of(
    st.just(["red", "blue"]), st.just([3, 5, 1]), st.lists(SCALARS, max_size=4), st.just('["red", "blue"]'), VALUES
)
QUESTIONS = st.one_of(st.sampled_from(["Say one.", "What is 2 plus 2?"]), SCALARS)
COLUMNS = {"question": QUESTIONS, "answer": ANSWERS}
ROWS = st.one_of(
    st.fixed_dictionaries(COLUMNS),
    st.fixed_dictionaries(COLUMNS | {"choices": CHOICES}),
    st.dictionaries(st.sampled_from(["question", "answer", "choices", "Question", "input", "target", "id"]), VALUES),
)
GOOD = {"question": "Say red.", "answer": "red", "choices": ["red", "blue"]}
OPTIONS = st.dictionaries(
    st.sampled_from(["num_fewshot", "max_gen_toks", "calibration", "limit", "x"]),
    st.one_of(st.sampled_from(["0", "1", "-1", "true", "", "1e9", "1.5"]), TEXTS),
    max_size=2,
)


@st.composite
def suites(draw) -> tuple[list, dict[str, str], str]:
    """The questions, the suite's options, and the format."""
    with_choices = draw(st.booleans())
    good = GOOD if with_choices else {key: GOOD[key] for key in ("question", "answer")}
    rows = draw(st.lists(st.one_of(st.just(good), ROWS), max_size=4))
    return rows, draw(OPTIONS), draw(st.sampled_from(["plain", "chat"]))


@cache
def loaded():
    """A tiny model and its tokenizer."""
    words = ragged.tokenizer("chatml")
    return ragged.model("gpt", words).eval(), words


def check_suite(rows: list, options: dict[str, str], format: str) -> None:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        file = Path(folder, "questions.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        spec = str(file) + ("?" + "&".join(f"{key}={value}" for key, value in options.items()) if options else "")
        run = Path(folder, "run")
        record = outcome(lambda: evaluate("unsaved", spec, format, run, loaded=loaded(), batch_size=4))
        if record is None:
            assert not run.exists(), "a refused suite left a run"
            return
        items = pandas.read_parquet(run / "items.parquet")
        left_out = sum(entry["n"] for entry in record["left_out"])
        of_each_metric = set(items.groupby("metric").size() + left_out)
        assert of_each_metric == {len(rows)} and rows, "questions were lost"
        for task in record["tasks"]:
            assert math.isfinite(task["value"]) and task["n"] == len(rows) - left_out


@fuzz(40)
@given(suites())
def test_a_suite_scores_every_question_or_is_refused(suite):
    check_suite(*suite)


@pytest.mark.slow
@fuzz(5000)
@given(suites())
def test_many_suites_score_every_question_or_are_refused(suite):
    check_suite(*suite)
