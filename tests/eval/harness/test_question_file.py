"""Suites from a user's own JSONL file."""

import json

import pytest

from alignment.errors import UserError
from eval.harness.question_file import exact_match, normalise
from eval.harness.run_suite import evaluate
from eval.harness.suite import load_suite

CHOICES = {"question": "What barks?", "choices": ["a dog", "a cat"], "answer": "a cat"}


def write(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("reply", "right"),
    [("The Red.", 1.0), (" red", 1.0), ("an  apple!", 1.0), ("red hat", 0.0), ("", 0.0), ("re d", 0.0)],
)
def test_exact_match_after_normalisation(reply, right):
    assert exact_match({"answers": ["red", "Apple"]}, [reply]) == {"exact_match": right}


def test_an_answer_that_is_an_article_stays():
    assert normalise("A.") == "a"


@pytest.mark.parametrize("format", ["plain", "chat"])
def test_questions_are_generated(format, tmp_path, model, tokenizer):
    rows = [{"question": f"Name colour {k}.", "answer": ["Red.", "Blue."] if k else 7, "id": k} for k in range(5)]
    file = write(tmp_path / "colours.jsonl", *rows)
    record = evaluate("unsaved", f"{file}?max_gen_toks=8", format, tmp_path / "run", loaded=(model, tokenizer))
    (figure,) = record["tasks"]
    assert (figure["task"], figure["metric"], figure["n"]) == ("colours", "exact_match", 5)
    (task,) = load_suite(file, format).tasks.values()
    shown = task.doc_to_text(task.eval_docs[0])
    assert shown == ("Question: Name colour 0.\nAnswer:" if format == "plain" else "Name colour 0.")
    assert task.config.generation_kwargs["until"] == (["\n"] if format == "plain" else [])


def test_choices_are_scored(tmp_path, model, tokenizer):
    rows = [CHOICES, CHOICES | {"answer": 1}, CHOICES | {"choices": ["a dog", "a cat", "a hen"], "answer": 2}]
    file = write(tmp_path / "animals.jsonl", *rows)
    record = evaluate("unsaved", file, "plain", tmp_path / "run", loaded=(model, tokenizer))
    assert [row["metric"] for row in record["tasks"]] == ["acc", "acc_norm"]
    assert record["tasks"][0]["chance"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    (task,) = load_suite(file, "plain").tasks.values()
    assert [task.doc_to_target(doc) for doc in task.eval_docs] == [1, 1, 2]


def test_examples_are_other_questions(tmp_path):
    file = write(tmp_path / "q.jsonl", *[{"question": f"Number {k}?", "answer": f"{k}"} for k in range(4)])
    (task,) = load_suite(f"{file}?num_fewshot=2", "plain").tasks.values()
    task.build_all_requests()
    for k, instance in enumerate(task.instances):
        assert instance.args[0].count("Question:") == 3 and instance.args[0].count(f"Number {k}?") == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_questions_are_no_examples_of_one_another(count, tmp_path):
    file = write(tmp_path / "q.jsonl", *[{"question": "Who?", "answer": "I"}] * count)
    with pytest.raises(UserError, match="too few few-shot examples"):
        load_suite(f"{file}?num_fewshot=1", "plain")
    other = write(
        tmp_path / "r.jsonl", *[{"question": "Who?", "answer": "I"}] * count, {"question": "a", "answer": "b"}
    )
    with pytest.raises(UserError, match="too few few-shot examples"):
        load_suite(f"{other}?num_fewshot=2", "plain")


def test_problems_of_several_rows_are_reported_together(tmp_path):
    rows = [{"question": "Who?"}, CHOICES, CHOICES | {"answer": "a hen"}, CHOICES | {"answer": 2}]
    with pytest.raises(UserError) as raised:
        load_suite(write(tmp_path / "bad.jsonl", *rows), "plain")
    text = str(raised.value)
    assert "row 1: needs question and answer" in text and "row 2" not in text
    assert "row 3: answer must be one of the choices" in text and "row 4: answer must be" in text
    mixed = write(tmp_path / "mixed.jsonl", CHOICES, {"question": "Who?", "answer": "I."})
    with pytest.raises(UserError, match="row 2: all rows must have choices, or none"):
        load_suite(mixed, "plain")
    with pytest.raises(UserError, match="Unknown option"):
        load_suite(f"{write(tmp_path / 'ok.jsonl', CHOICES)}?shots=3", "plain")
