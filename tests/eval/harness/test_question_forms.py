"""Question files as people write them: answers and choices of any JSON type, other formats, columns of other names."""

import csv
import json
import random

import pytest

from alignment.errors import UserError
from eval.harness.question_file import exact_match, read_questions
from eval.harness.suite import load_suite, suite_digest


def write(folder, rows, name="q.jsonl"):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def task_of(spec, format="plain"):
    (task,) = load_suite(str(spec), format).tasks.values()
    return task


# answer in the file -> (replies that are right, replies that are wrong)
ANSWERS = [
    (7, ["7", "7.", "7.0", " +7 ", "**7**", "The 7"], ["70", "-7", "0.7", "7 8", "07", ""]),
    (2.5, ["2.5", "2.50", "2.5."], ["25", "2", "-2.5", "2,5"]),
    (-5, ["-5", "\u22125", "-5.0", "(-5)"], ["5", "50", "- 5 - 5"]),
    ("3.14", ["3.14", "3.140", "3.14!"], ["314", "3", "3,14", "-3.14"]),
    (1000, ["1000", "1,000", "1,000.00", "1e3"], ["1.000", "100", "10,00", "1 0 0 0"]),
    ("1,250 km", ["1250 km", "1,250 km."], ["1.250 km", "125 km", "-1250 km"]),
    ("$-5", ["-$5", "-5"], ["5", "$5"]),
    ("50%", ["50%", "50 %", "50"], ["0.50%", "5", "-50%"]),
    ("\uff11\uff12", ["12", "\uff11\uff12"], ["1", "2"]),
    ("007", ["007"], ["7", "0007"]),
    (0, ["0", "0.0", "-0"], ["", "o", "00"]),
    (12345678901234567890123, ["12345678901234567890123"], ["12345678901234567890124", "1.2345678901234567e22"]),
    ("2024-01-05", ["2024-01-05."], ["20240105", "2024-1-5"]),
    ("10:30", ["10:30"], ["1030"]),
    ("1/2", ["1/2"], ["12", "2/1"]),
    ("1.2.3", ["1.2.3"], ["123", "1.23"]),
    ("A", ["A", "a.", "(A)"], ["", "B", "the"]),
    ("the", ["the", "The."], ["", "a"]),
    ("?", ["?"], ["", "!", "."]),
    ("A, B", ["A, B", "a, b."], ["B", "A"]),
    ("Vitamin A", ["vitamin A."], ["vitamin", "vitamin B"]),
    ("C++", ["C++", "c++."], ["C", "C#"]),
    ("x > 3", ["x > 3"], ["x < 3", "x 3"]),
    ("2 * 3", ["2 * 3"], ["2 / 3", "2 3"]),
    ("Caf\u00e9", ["cafe\u0301", "CAF\u00c9!"], ["cafe"]),
    ("\u5317\u4eac", ["\u5317\u4eac\u3002", "\u300c\u5317\u4eac\u300d"], ["\u5317"]),
    ("\u00bfQu\u00e9?", ["qu\u00e9"], ["que"]),
    ("Stra\u00dfe", ["STRASSE"], ["strase"]),
    ("don't know", ["don\u2019t know", "\u201cDon't know.\u201d"], ["know"]),
    (True, ["True", "true."], ["false", "1"]),
    (0.00001, ["0.00001", "1e-05", "1e-5", "0.000010"], ["100000", "1e5", "1e05", "0.0001"]),
    ("5e-3", ["0.005", "5E-3", "5.0e-3."], ["5000", "5e3", "53"]),
    ("10^2", ["10^2", "10**2", "10 ^ 2", "10^{2}", "10 ** 2", "$10^2$"], ["102", "10 2", "10^-2", "10*2"]),
    ("x^2", ["x^2", "**x^2**", "x ^ 2."], ["x2", "x"]),
    ("2**-3", ["2^-3", "2^{-3}"], ["2^3", "23", "2-3"]),
    ("version 1.10", ["Version 1.10."], ["version 1.1"]),
    ("m/s", ["m/s"], ["ms"]),
    ("file.txt", ["file.txt."], ["filetxt"]),
    ("U.S.A.", ["USA", "U.S.A"], ["US"]),
    ("Ph.D.", ["PhD"], ["MD"]),
    (["Red.", 7], ["red", "7.0"], ["red 7", "70"]),
]


@pytest.mark.parametrize("with_decimal", [False, True], ids=["alone", "next to 0.5"])
def test_a_reply_is_right_only_if_it_is_the_answer(with_decimal, tmp_path):
    """Whatever the types of the other rows' answers."""
    rows = [{"question": f"{number}?", "answer": answer} for number, (answer, _, _) in enumerate(ANSWERS)]
    file = write(tmp_path, rows + [{"question": "Half?", "answer": 0.5}] * with_decimal)
    found = read_questions(file)
    wrong = [
        (answer, reply, expected)
        for row, (answer, *replies) in zip(found, ANSWERS, strict=False)
        for expected, texts in zip((1.0, 0.0), replies, strict=True)
        for reply in texts
        if exact_match(row, [reply])["exact_match"] != expected
    ]
    assert wrong == []


def test_answers_are_shown_as_written(tmp_path):
    written = [7, 2.5, -5, 10**22, True, "07"]
    file = write(tmp_path, [{"question": "?", "answer": answer} for answer in written])
    assert [row["answers"] for row in read_questions(file)] == [[str(answer)] for answer in written]


def test_any_text_equals_itself_and_no_number_its_negative():
    rng = random.Random(0)
    signs = " aA1205.,-+%$#*/:;?!'()\u2212\u0301\u4eac\uff15\u0663\u00b2\u00bd\n"
    for text in ("".join(rng.choices(signs, k=rng.randint(1, 8))) for _ in range(2000)):
        assert not text.strip() or exact_match({"answers": [text]}, [text]) == {"exact_match": 1.0}
    for number in (rng.randint(1, 10**6) / 1000 for _ in range(500)):
        doc = {"answers": [f"{number:.3f}"]}
        assert exact_match(doc, [f"{number:,.4f}"]) == {"exact_match": 1.0}
        for other in (-number, number * 10, number + 0.001):
            assert exact_match(doc, [f"{other:.3f}"]) == {"exact_match": 0.0}


COLOURS = ["red", "green", "blue"]
# (choices, answer) -> number of the right choice
CHOICES = [
    (COLOURS, "green", 1),
    (COLOURS, 2, 2),
    (COLOURS, "2", 2),
    (COLOURS, "B", 1),
    (COLOURS, "(c)", 2),
    (COLOURS, 1.0, 1),
    ([3, 5, 1], 1, 2),
    ([3, 5, 1], 5, 1),
    ([3, 5, 1], "1", 2),
    (["2", "4", "8"], 2, 0),
    ([2, 4, 8], "2", 0),
    (["1.0", "2.0", "3.0"], 2.0, 1),
    (["1.0", "2.0", "3.0"], 2, 1),
    ("[2, 4, 8]", "2", 0),
    ("[2, 4, 8]", 2, 0),
    (["2", "4", "8"], 1, 1),
    (["true", "false"], True, 0),
    (["True", "False"], "false", 1),
    ([False, True], "true", 1),
    (COLOURS, ["green"], 1),
    (COLOURS, "B. green", 1),
    (COLOURS, "(b) green", 1),
    (COLOURS, "option_b", 1),
    (COLOURS, "GREEN", 1),
    (["a", "A"], "A", 1),
    ("['red', 'green', 'blue']", "green", 1),
    ("['red' 'green'\n 'blue']", "green", 1),
    ("a) red b) green c) blue", "b", 1),
    ("1) red 2) green 3) blue", "2) green", 1),
    ("red\ngreen\nblue", "green", 1),
    ("a ) 38 , b ) 27.675 , c ) 30 , d ) x , e ) none", "b", 1),
    (["A)21", "B)21.5", "C)22"], "B", 1),
    ({"text": COLOURS, "label": ["(A)", "(B)", "(C)"]}, "B", 1),
    ({"A": "red", "B": "green", "C": None}, "B", 1),
    ({"A": "red", "B": None, "C": "blue"}, 2, 1),
    (["3", "5", "1"], "1", 2),
    ([0.5, 7, -5], -5, 2),
    ([True, False], False, 1),
    (["no", "yes", "B"], "B", 2),
    ({"text": COLOURS, "label": ["A", "B", "C"]}, "C", 2),
    ({"text": COLOURS, "label": ["1", "2", "3"]}, "1", 0),
    ({"A": "red", "B": "green"}, "B", 1),
    ([{"text": "red", "label": "A"}, {"text": "green", "label": "B"}], "B", 1),
    ('["red", "green"]', "green", 1),
    ("A) red B) green C) blue", "C", 2),
    ("(A) red (B) green", "green", 1),
    (["a", "a", "b"], "b", 2),
]


@pytest.mark.parametrize(("choices", "answer", "right"), CHOICES, ids=str)
def test_the_right_choice(choices, answer, right, tmp_path):
    (row,) = read_questions(write(tmp_path, [{"question": "Which?", "choices": choices, "answer": answer}]))
    assert row["answer"] == right
    assert all(isinstance(choice, str) for choice in row["choices"])


# (columns, number of choices, number of the right one)
SERIES = [
    ({f"choice{n}": f"c{n}" for n in range(1, 11)} | {"answer": "c10"}, 10, 9),
    ({letter: f"c{letter}" for letter in "ABCDEFGHIJKL"} | {"answer": "L"}, 12, 11),
    ({f"answer{n}": f"c{n}" for n in range(4)} | {"label": 3}, 4, 3),
    ({f"answer{letter}": f"c{letter}" for letter in "ABC"} | {"label": "C"}, 3, 2),
    ({"choice0": "x", "choice1": "y", "label": 1}, 2, 1),
    ({f"ending{n}": f"c{n}" for n in range(4)} | {"label": 0}, 4, 0),
    ({f"op{letter}": f"c{letter}" for letter in "abcd"} | {"answer": "b"}, 4, 1),
    ({"A": "a", "B": "b", "n": "other", "answer": "B"}, 2, 1),
    ({"A": "a", "B": "", "C": "c", "D": "d", "answer": 2}, 3, 1),
    ({"A": "a", "B": None, "C": "c", "D": "d", "answer": "D"}, 3, 2),
    ({"A": "a", "B": "b", "C": "c", "D": None, "answer": 1}, 3, 1),
]


@pytest.mark.parametrize(("columns", "count", "right"), SERIES, ids=lambda value: str(value)[:40])
def test_a_column_per_choice(columns, count, right, tmp_path):
    (row,) = read_questions(write(tmp_path, [{"question": "Which?"} | columns]))
    assert (len(row["choices"]), row["answer"]) == (count, right)


@pytest.mark.parametrize("names", [("A", "B", "D"), ("choice1", "choice2", "choice4"), ("opa", "opb", "opd")])
def test_columns_of_choices_with_a_gap_are_refused(names, tmp_path):
    with pytest.raises(UserError, match="column per choice, but some are missing"):
        read_questions(write(tmp_path, [dict.fromkeys(names, "x") | {"question": "Which?", "answer": 1}]))


def test_a_choice_that_is_missing_is_not_the_answer(tmp_path):
    row = {"question": "Which?", "A": "a", "B": "", "C": "c"}
    for answer in (1, "B"):
        with pytest.raises(UserError, match="answer must be one of the choices"):
            read_questions(write(tmp_path, [row | {"answer": answer}]))


def test_an_answer_is_read_alike_in_all_rows(tmp_path, caplog):
    """2 is a number if other rows show that answers are numbers; which reading is used is logged."""
    rows = [([8, 2, 24], 2), ([0, 4, 3], 1)]
    file = write(tmp_path, [{"question": f"{a}", "choices": c, "answer": a} for c, a in rows])
    assert [row["answer"] for row in read_questions(file)] == [2, 1]
    assert "1 answers could be a choice or the number of a choice, and are read as the number (row 1: 24" in caplog.text
    caplog.clear()
    file = write(tmp_path, [{"question": "?", "choices": [3, 5, 1], "answer": 1}])
    assert [row["answer"] for row in read_questions(file)] == [2]
    assert "read as the choice (row 1: 1 of 3, 5, 1)" in caplog.text


GOOD = {"question": "Which?", "choices": COLOURS, "answer": "red"}
REFUSED = [
    ({"question": "Who?", "answer": None}, "answer is null"),
    ({"question": None, "answer": "I"}, "question is null"),
    ({"question": " ", "answer": "I"}, "question is empty"),
    ({"question": ["Who?"], "answer": "I"}, "question must be text, not a list"),
    ({"question": "Who?", "answer": ""}, "answer is empty"),
    ({"question": "Who?", "answer": []}, "answer is an empty list"),
    ({"question": "Who?", "answer": ["I", None]}, "an answer is null"),
    ({"question": "Who?", "answer": {"name": "I"}}, "answer is null"),
    (GOOD | {"choices": []}, "choices is empty"),
    (GOOD | {"choices": ["red"]}, "at least two choices"),
    (GOOD | {"choices": ["red", None]}, "a choice is null"),
    (GOOD | {"choices": ["red", ""]}, "a choice is empty"),
    (GOOD | {"choices": ["red", ["green"]]}, "a choice must be text, not a list"),
    (GOOD | {"choices": ["red", "red"]}, "the right choice is there twice"),
    (GOOD | {"choices": "red or green"}, "choices must be a list"),
    (GOOD | {"choices": 3}, "choices must be a list"),
    (GOOD | {"answer": True}, "answer must be one of the choices"),
    (GOOD | {"answer": -1}, "answer must be one of the choices"),
    (GOOD | {"answer": 3}, "answer must be one of the choices"),
    (GOOD | {"answer": 0.5}, "answer must be one of the choices"),
    (GOOD | {"answer": [0, 1]}, "answer must be one of the choices"),
    ({"Frage": "Wer?", "answer": "I"}, "no column with the question"),
    ({"question": "Who?", "reply": "I"}, "no column with the answer"),
]


@pytest.mark.parametrize(("row", "problem"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_rows_that_cannot_be_scored_are_refused(row, problem, tmp_path):
    with pytest.raises(UserError, match=problem):
        read_questions(write(tmp_path, [row]))


def test_every_row_with_a_problem_is_counted(tmp_path):
    rows = [GOOD] + [GOOD | {"answer": "pink"}] * 7 + [GOOD | {"question": None}] * 2
    with pytest.raises(UserError, match=r"\.\.\. and 4 more such rows"):
        load_suite(str(write(tmp_path, rows)), "plain")


ROWS = [{"question": f"What is {a} + 0.5?", "answer": f"{a + 0.5}"} for a in range(3)]
PICKS = [{"question": f"Which, {a}?", "choices": COLOURS, "answer": str(a)} for a in range(3)]


def tables(folder, rows):
    """The same rows in every format."""
    from datasets import Dataset

    cells = [
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()} for row in rows
    ]
    for name, separator in [("q.csv", ","), ("q.tsv", "\t")]:
        with (folder / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(cells)
    (folder / "q.json").write_text(json.dumps(rows))
    (folder / "wrapped.json").write_text(json.dumps({"canary": "x", "examples": rows}))
    Dataset.from_list(rows).to_parquet(str(folder / "q.parquet"))
    return ["q.csv", "q.tsv", "q.json", "wrapped.json", "q.parquet"]


@pytest.mark.parametrize("rows", [ROWS, PICKS], ids=["answers", "choices"])
def test_every_format_gives_the_same_suite(rows, tmp_path):
    expected = task_of(write(tmp_path, rows)).task_docs.to_list()
    for name in tables(tmp_path, rows):
        assert task_of(tmp_path / name).task_docs.to_list() == expected, name


NAMES = [
    ({"Question": "Who?", "Answer": "I"}, ["I"]),
    ({"QUERY": "Who?", "target": "I"}, ["I"]),
    ({"prompt": "Who?", "answers": ["I", "me"]}, ["I", "me"]),
    ({"problem": "Who?", "answer": {"text": ["I", "me"], "answer_start": [0, 1]}}, ["I", "me"]),
    ({"input": "Who?", "target": "I"}, ["I"]),
    ({"Question": "Which?", "A": "red", "B": "green", "Answer": "B"}, 1),
    ({"question": "Which?", "option_a": "red", "option_b": "green", "Correct Answer": "A"}, 0),
    ({"question": "Which?", "choice1": "red", "choice2": "green", "label": 0}, 0),
    ({"question": "Which?", "options": COLOURS, "answerKey": "C"}, 2),
]


@pytest.mark.parametrize(("row", "found"), NAMES, ids=lambda value: ",".join(value) if isinstance(value, dict) else "")
def test_columns_of_other_names(row, found, tmp_path):
    (read,) = read_questions(write(tmp_path, [row]))
    assert read.get("answers", read.get("answer")) == found


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("question", ["context"]),
        ("question", ["contexts", "text", "background", "system"]),
        ("instruction", ["input"]),
        ("Question", ["Body"]),
        ("query", ["system_prompt", "facts"]),
    ],
)
def test_a_passage_that_is_not_shown_is_named(asked, names, tmp_path, caplog):
    read_questions(write(tmp_path, [{asked: "Who?", "answer": "I", "level": 3} | dict.fromkeys(names, "I did.")]))
    assert f"the prompt is the column {asked} alone, without {', '.join(names)};" in caplog.text


def test_prompts_are_the_questions_whatever_they_look_like(tmp_path):
    """lm-eval evaluates texts that are numbers or lists."""
    rows = [{"question": text, "choices": ["[1, 2]", "12"], "answer": "12"} for text in ("7", "[1]", "{{ 3 }}")]
    for format in ("plain", "chat"):
        task = task_of(write(tmp_path, rows), format)
        task.build_all_requests()
        shown = [instance.args[0] for instance in task.instances[::2]]
        assert shown == [
            f"Question: {row['question']}\nAnswer:" if format == "plain" else row["question"] for row in rows
        ]
    texts = [{"question": "Which?", "answer": "[1, 2]"}, {"question": "What?", "answer": "[3]"}]
    task = task_of(f"{write(tmp_path, texts, 'lists.jsonl')}?num_fewshot=1")
    task.build_all_requests()
    assert "[1, 2]" in task.instances[1].args[0]


def test_solutions_with_a_box_are_worked_answers(tmp_path):
    row = {"problem": "What is 8 times 9?", "level": "Level 1", "solution": "We get $8 \\cdot 9 = \\boxed{72}$."}
    task = task_of(write(tmp_path, [row]))
    for reply, score in [("so \\boxed{72}", 1.0), ("The answer is 72.", 1.0), ("\\boxed{27}", 0.0)]:
        assert task.process_results(task.task_docs[0], [reply]) == {"exact_match": score}


SOLVED = {"question": "What is 8 times 9?", "answer": "8 * 9 = <<8*9=72>>72\n#### 72"}
FINAL = [
    ("8 * 9 = 72\n#### 72", 1.0),
    ("The answer is 72.", 1.0),
    ("72", 1.0),
    ("8 times 9 is 72 in all", 1.0),
    ("I think 72, no, 73", 0.0),
    ("#### 7.2", 0.0),
    ("-72", 0.0),
    ("", 0.0),
]


@pytest.mark.parametrize(("reply", "score"), FINAL)
def test_worked_answers_are_compared_by_their_final_answer(reply, score, tmp_path):
    task = task_of(write(tmp_path, [SOLVED] * 2))
    assert task.process_results(task.task_docs[0], [reply]) == {"exact_match": score}
    bare = task_of(f"{write(tmp_path, [{'question': 'What?', 'answer': 72}], 'bare.jsonl')}?match=final")
    assert bare.process_results(bare.task_docs[0], [reply]) == {"exact_match": score}


def test_final_answers_in_some_rows_or_of_choices_are_refused(tmp_path):
    file = write(tmp_path, [SOLVED, {"question": "What?", "answer": "72"}])
    with pytest.raises(UserError, match=r"1 of 2 rows without it, the first is row 2"):
        load_suite(str(file), "plain")
    task = task_of(f"{file}?match=exact")
    assert task.process_results(task.task_docs[1], ["72"]) == {"exact_match": 1.0}
    with pytest.raises(UserError, match=r"Unknown option.*\n(.*\n)?.*match"):
        load_suite(f"{file}?match=final&x=1", "plain")
    for spec in (f"{file}?match=last", f"{write(tmp_path, [GOOD], 'c.jsonl')}?match=final"):
        with pytest.raises(UserError, match="match="):
            load_suite(spec, "plain")


def test_the_digest_is_of_rows_and_comparison_not_of_the_file(tmp_path):
    first = suite_digest(load_suite(str(write(tmp_path, ROWS)), "plain"))
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", ROWS)
    assert suite_digest(load_suite(str(other), "plain")) == first
    assert suite_digest(load_suite(f"{other}?match=final", "plain")) != first
    write(tmp_path / "other", ROWS[:2])
    assert suite_digest(load_suite(str(other), "plain")) != first


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv"])
def test_an_empty_file(name, tmp_path):
    (tmp_path / name).write_text("question,answer\n" if name.endswith("csv") else "")
    with pytest.raises(UserError, match="contains no rows"):
        load_suite(str(tmp_path / name), "plain")
