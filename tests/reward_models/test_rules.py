"""Rewards that can be checked, by hand values."""

import json

import pytest

from alignment.errors import UserError
from reward_models import rules
from reward_models.functions import load_function


def judged(reward, *replies: str, **columns) -> list:
    return reward(prompts=[""] * len(replies), completions=list(replies), **columns)


@pytest.mark.parametrize(
    ("reply", "truth", "right"),
    [
        ("So she has 18 eggs left.", "18", True),
        ("First 3, then 4. So 18.", "9 + 9 = 18\n#### 18", True),
        ("First 18, then 4.", "9 + 9 = 18\n#### 18", False),
        (r"It is \boxed{18}, and not 17.", "18", True),
        (r"It is \boxed{17}, and not 18.", "18", False),
        ("#### 18\nI am 99% sure.", "18", True),
        (r"\boxed{17}, no: \boxed{18}", "18", True),
        ("#### 17\nNo:\n#### 18", "18", True),
        ("It costs $1,234.50.", "1234.5", True),
        ("1,234 and 1,2", "1234", False),
        (r"\boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{\dfrac{3}{4}}", "0.7", False),
        ("It is 2/4", "1/2", True),
        ("It is 1/0", "1", False),
        ("It is -5", "5", False),
        ("The range is 3-5", "5", True),
        ("x=-5", "-5", True),
        ("#### 12 apples", "12", True),
        ("no number here", "18", False),
        ("", "18", False),
        (r"\boxed{x^{2}+1}", r"\boxed{x^{2}+1}", True),
        (r"\boxed{Paris}", "paris", True),
        ("Paris.", "Paris", True),
        ("It is Paris", "Paris", False),
        ("18", "She sells 9 and 9 more, so that makes 18.", True),
    ],
)
def test_answers(reply, truth, right):
    assert judged(rules.answer_match(), reply, answer=[truth]) == [float(right)]


def test_answers_need_their_column_and_rows_without_one_get_no_opinion():
    with pytest.raises(UserError, match="no column 'answer'"):
        judged(rules.answer_match(), "18", solution=["18"])
    assert judged(rules.answer_match("solution"), "18", "18", solution=["18", None]) == [1.0, None]
    conversation = [[{"role": "assistant", "content": "It is 18"}]]
    assert rules.answer_match()(completions=conversation, answer=[18]) == [1.0]


def test_gsm8k_answers_match_themselves(shared_data):
    path = shared_data / "gsm8k/train.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    answers = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    assert set(judged(rules.answer_match(), *answers, answer=answers)) == {1.0}
    bare = [answer.rpartition("####")[2].strip() for answer in answers]
    assert set(judged(rules.answer_match(), *[f"The answer is {one}." for one in bare], answer=answers)) == {1.0}
    shifted = judged(rules.answer_match(), *answers[1:], answers[0], answer=answers)
    assert sum(shifted) == sum(bare[i].replace(",", "") == bare[i - 1].replace(",", "") for i in range(len(bare)))


def test_formats():
    found = load_function("reward_models.rules:matches?pattern=^<b>.*</b>$")
    assert judged(found, "<b>a\nb</b>", "a <b>c</b>") == [1.0, 0.0]
    assert judged(rules.matches("b+", whole=True), "bb", "abb") == [1.0, 0.0]
    assert judged(rules.parses_as_json(), '{"a": 1}', "[1]", "{a: 1}", "", "[" * 100_000) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert judged(rules.parses_as_json(["a", "b"]), '{"a": 1, "b": 2, "c": 3}', '{"a": 1}', "[1]") == [1.0, 0.0, 0.0]
    with pytest.raises(UserError, match="not a regular expression"):
        rules.matches("(")


def test_lengths():
    band = rules.length_band(2, 3, fall=4)
    assert judged(band, "a", "a b", "a b c", "a b c d", "a " * 7, "a " * 20) == [0.75, 1.0, 1.0, 0.75, 0.0, 0.0]
    assert judged(rules.length_band(1, 2, unit="characters"), "", "ab", "abc") == [0.0, 1.0, 0.0]
    penalty = rules.length_penalty(0.5, free=2, unit="tokens")
    assert judged(penalty, "x", "x", completion_ids=[[1, 2], [1, 2, 3, 4]]) == [0.0, -1.0]
    assert judged(penalty, "x") == [None]
    with pytest.raises(UserError, match="Unknown unit"):
        rules.length_penalty(1, unit="word")
    with pytest.raises(UserError, match="no such band"):
        rules.length_band(5, 2)


def test_forbidden_words(tmp_path):
    (tmp_path / "words.txt").write_text("you fool\n\nC++\n")
    reward = rules.without_words(["ass"], str(tmp_path / "words.txt"), penalty=2.0)
    assert judged(reward, "An ASS!", "a class", "You  fool", "you fool.", "in c++ or C", "fine") == [
        -2,
        0,
        0,
        -2,
        -2,
        0,
    ]
    with pytest.raises(UserError, match="forbids nothing"):
        rules.without_words([" "])
    with pytest.raises(UserError, match="no file"):
        rules.without_words(file="nowhere.txt")


def test_code_that_parses():
    fenced = "Here:\n```python\nx = 1\n```\nand\n```py\ny = 2\n```\nDone (."
    assert rules.code_of(fenced) == "y = 2\n"
    assert judged(rules.code_parses(), fenced, "x = (", "x = 1", "", "\0") == [1.0, 0.0, 1.0, 0.0, 0.0]


def test_code_is_not_run_without_leave(tmp_path):
    for make in (rules.code_passes, lambda: load_function("reward_models.rules:code_passes?column=tests")):
        with pytest.raises(UserError, match="which is off"):
            make()


def test_code_that_passes_its_tests():
    reward = load_function("reward_models.rules:code_passes?allow_execution=true&seconds=20")
    right, wrong = "```python\ndef f(x):\n    return x + 1\n```", "def f(x):\n    return x"
    tests = [["assert f(1) == 2", "assert f(2) == 3"]] * 2 + [None, "assert f(0) == 0"]
    assert judged(reward, right, wrong, right, wrong, tests=tests) == [1.0, 0.0, None, 1.0]
    with pytest.raises(UserError, match="no column 'tests'"):
        judged(reward, right)


def test_limits_within_which_nothing_runs_are_said_at_once():
    with pytest.raises(UserError, match="cannot run code on this machine"):
        rules.code_passes(allow_execution=True, megabytes=4)
