"""Rewards by rule, against values by hand."""

import json
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import UserError
from reward_models.functions import load_function
from reward_models.rules import algebra, rules
from reward_models.rules.answers import same_answer


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
        ("The range is 3-5", "5", False),
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


@pytest.fixture(scope="module")
def answer_match():
    return rules.answer_match()


def table() -> list:
    """The rows of answers.tsv; a line break is written as \u23ce."""
    lines = Path(__file__).with_name("answers.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "reply\ttruth\tright"
    return [
        (reply.replace("\u23ce", "\n"), truth, right) for reply, truth, right in (one.split("\t") for one in lines[1:])
    ]


def test_tricky_answers(answer_match):
    rows = table()
    replies, truths, right = zip(*rows, strict=True)
    rewards = judged(answer_match, *replies, answer=list(truths))
    wrong = [row for row, reward in zip(rows, rewards, strict=True) if reward != float(row[2])]
    assert len(rows) > 200 and 0 < sum(map(int, right)) < len(rows)
    assert wrong == []


def test_answers_do_not_depend_on_their_order_or_on_threads(answer_match):
    rows = [row for row in table() if "\\" in row[1]][::3]
    once = judged(answer_match, *(row[0] for row in rows), answer=[row[1] for row in rows])
    back = judged(rules.answer_match(), *(row[0] for row in rows[::-1]), answer=[row[1] for row in rows[::-1]])
    with ThreadPoolExecutor(4) as threads:
        several = list(threads.map(lambda row: judged(answer_match, row[0], answer=[row[1]])[0], rows))
    assert once == back[::-1] == several


@pytest.mark.parametrize(
    "frame", ["{}", "$ {} $", "**{}**", "  {}.\n", "The answer is {}.", "\\boxed{{{}}}", "#### {}"]
)
@pytest.mark.parametrize(
    ("answer", "same", "other"),
    [("18", "18.0", "19"), ("1,234", "1234", "1.234"), (r"3\pi", r"3 \pi", r"-3\pi"), (r"\frac{1}{2}", "0.5", "1 1/2")],
)
def test_answers_do_not_depend_on_the_text_around_them(answer_match, frame, answer, same, other):
    truths = [answer, same, other, f"so it is \\boxed{{{same}}}", f"#### {other}"]
    assert judged(answer_match, *[frame.format(answer)] * 5, answer=truths) == [1.0, 1.0, 0.0, 1.0, 0.0]


HOSTILE = [
    "10**10**10",
    "9^{9^{9}}",
    "9!!!!!!",
    "(" * 5_000,
    r"\boxed{" * 5_000,
    r"\frac{" * 3000,
    "1" * 20_000,
    "9" * 190 + "^{999}",
    r"(x+1)^{99}(x+2)^{99}",
    r"\sqrt{" * 50 + "x" + "}" * 50,
    r"\sin(\sin(\sin(\sin(x^{99}))))+\cos(x)^{99}",
    r"\int_0^1 e^{x^2}dx",
    "\0\ud800",
    "1,\u200b" * 5_000,
    "answer is " * 5_000,
    r"\boxed{3} and " * 5000 + r"\boxed{3}",
    "not " * 5_000 + r"\boxed{5}",
    "$ " * 5_000,
    "18 " * 5_000 + "!" * 5_000,
]


def test_hostile_replies_score_nothing_and_take_no_time(answer_match):
    started = time.monotonic()
    for truth in ("5", "x^2+1", r"(-\infty, 3]"):
        for frame in ("{}", "\\boxed{{{}}}"):
            replies = [frame.format(reply) for reply in HOSTILE]
            assert judged(answer_match, *replies, answer=[truth] * len(replies)) == [0.0] * len(replies)
    assert time.monotonic() - started < 30


PIECES = [
    *"0189()[]{}=,;.|?$ \n\\",
    "\\boxed{",
    "\\frac",
    "\\{",
    "\\le",
    "#### ",
    "x",
    "and",
    "or",
    "answer is",
    "so",
    "<",
]
TRUTHS = ["8", "1,2", "1 and 2", "(1, 2)", "[0,1)", r"\{1,2\}", "x = 5", "x^2+1", "B", "Paris", "60^\\circ", r"x \le 3"]


@given(reply=st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_no_reply_raises_or_takes_long(reply):
    started = time.process_time()
    for truth in TRUTHS:
        assert same_answer(reply, truth) in (True, False)
        assert same_answer(truth, reply) in (True, False)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["8", "So she has 8 eggs.", "\\boxed{8}", "#### 8", "The answer is 8."])
@pytest.mark.parametrize(
    "denial", ["? No.", ". Wait, that is wrong.", "\nNo, it is nine.", ". Sorry, I made a mistake."]
)
def test_a_retracted_answer_does_not_count(text, denial):
    assert same_answer(text, "8") and not same_answer(text.rstrip(".") + denial, "8")


def test_expressions_beyond_the_limits_equal_nothing_and_the_next_pair_is_compared(monkeypatch, tmp_path):
    worker = algebra.WORKER.read_text()
    assert worker.count("    a, b = read(given), read(wanted)\n") == 1
    stuck = "    if given == 'x': 7 ** 10 ** 9\n    a, b = read(given), read(wanted)\n"
    worker = worker.replace("    a, b = read(given), read(wanted)\n", stuck).replace(
        "SECONDS, BYTES = 3.0", "SECONDS, BYTES = 1.5"
    )
    (tmp_path / "worker.py").write_text(worker)
    monkeypatch.setattr(algebra, "WORKER", tmp_path / "worker.py")
    equal = algebra.Algebra()
    assert [equal("x", "2x"), equal("2x", "x+x"), equal("2x", "x")] == [False, True, False]
    equal.close()


def test_numbers_lists_and_words_start_no_process(monkeypatch):
    monkeypatch.setattr(algebra, "Worker", lambda _: pytest.fail("a process"))
    replies = ["18", "#### 18 cm", "B", "(1, 2)", "so it is 17", "2x", r"\boxed{3x}"]
    truths = ["18", "18", "A", "(1,2)", "18", "18", "3x"]
    assert judged(rules.answer_match(), *replies, answer=truths) == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert "math_verify" not in sys.modules


def test_public_helpers_of_answers():
    assert rules.marked_answer(r"\boxed{a} \boxed{b_{1}}") == "b_{1}" and rules.marked_answer("5") is None
    assert [rules.as_number(text) for text in ("1,000 kg", "1/2", "3x")] == [1000, Fraction(1, 2), None]
    assert rules.last_number("First 3, then 4. So 18.") == 18 and rules.last_number("3 or 4") is None


def test_rows_of_several_answers_or_none():
    reward = rules.answer_match()
    truths = [["5", "five"], ["6", None], [], "", float("nan"), (), 5.0, " "]
    assert judged(reward, *["five"] + ["5"] * 6 + [""], answer=truths) == [1.0, 0.0, None, None, None, None, 1.0, None]
    assert judged(reward, "True", "1e-07", answer=[True, 1e-07]) == [1.0, 1.0]
    calls = [[{"role": "assistant", "content": None}], []]
    assert reward(completions=calls, answer=["5", "5"]) == [0.0, 0.0]


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
    assert judged(rules.parses_as_json(), "NaN", '{"a": Infinity}', '{"a": -Infinity}', "null") == [0.0, 0.0, 0.0, 1.0]
    assert judged(rules.parses_as_json(["a", "b"]), '{"a": 1, "b": 2, "c": 3}', '{"a": 1}', "[1]") == [1.0, 0.0, 0.0]
    with pytest.raises(UserError, match="not a regular expression"):
        rules.matches("(")


def test_lengths():
    band = rules.length_band(2, 3, fall=4)
    assert judged(band, "a", "a b", "a b c", "a b c d", "a " * 7, "a " * 20) == [0.75, 1.0, 1.0, 0.75, 0.0, 0.0]
    assert judged(rules.length_band(1, 2, unit="characters"), "", "ab", "abc") == [0.0, 1.0, 0.0]
    assert judged(rules.length_band(2, 9, unit="characters"), "     ", "\n a \n", "  ab") == [0.0, 0.0, 1.0]
    # Japanese and Thai have no spaces between words: each character counts as a word, punctuation does not.
    assert judged(rules.length_band(3, 3), "猫です。", "กขค", "a b c", "猫 is 3", "猫です。 犬") == [1, 1, 1, 1, 0]
    assert judged(rules.length_penalty(1.0, free=2), "猫です。", "猫") == [-1.0, 0.0]
    penalty = rules.length_penalty(0.5, free=2, unit="tokens")
    assert judged(penalty, "x", "x", completion_ids=[[1, 2], [1, 2, 3, 4]]) == [0.0, -1.0]
    assert judged(penalty, "x") == [None]
    with pytest.raises(UserError, match="Unknown unit"):
        rules.length_penalty(1, unit="word")
    with pytest.raises(UserError, match="not a valid length band"):
        rules.length_band(5, 2)
    with pytest.raises(UserError, match="not a valid length band"):
        rules.length_band(2, 5, fall=-1)  # would grow without end


def test_forbidden_words(tmp_path):
    (tmp_path / "words.txt").write_text("you fool\n\nC++\n")
    reward = rules.without_words(["ass"], str(tmp_path / "words.txt"), penalty=2.0)
    assert judged(reward, "An ASS!", "a class", "You  fool", "you fool.", "in c++ or C", "fine") == [
        -2,
        0,
        -2,
        -2,
        -2,
        0,
    ]
    (tmp_path / "accents.txt").write_bytes("\ufeffcaf\u00e9\ndon't\n".encode())
    accents = rules.without_words(file=str(tmp_path / "accents.txt"))
    tricks = ["Cafe\u0301", "_caf\u00e9_", "c\u200baf\u00e9", "\uff43af\u00e9", "don\u2019t", "cafe", "caf\u00e9s"]
    assert judged(accents, *tricks) == [-1, -1, -1, -1, -1, 0, 0]
    assert judged(rules.without_words(["you fool"]), "you\nfool", "you\u00a0 fool", "youfool") == [-1, -1, 0]
    with pytest.raises(UserError, match="has no words to forbid"):
        rules.without_words([" "])
    with pytest.raises(UserError, match="no file"):
        rules.without_words(file="nowhere.txt")


def test_code_that_parses():
    fenced = "Here:\n```python\nx = 1\n```\nand\n```py\ny = 2\n```\nDone (."
    assert rules.code_of(fenced) == "y = 2\n"
    assert judged(rules.code_parses(), fenced, "x = (", "x = 1", "", "\0") == [1.0, 0.0, 1.0, 0.0, 0.0]


F = "def f():\n    return 1\n"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        *[
            (f"Here:\n{fence}{label}\n{F}{fence}\nDone.", F)
            for fence in ("```", "~~~", "````")
            for label in ("", "python")
        ],
        *[
            (f"```{label}\n{F}```", F)
            for label in (
                "python3",
                "Python",
                "PYTHON",
                "py",
                " python",
                'python title="a.py"',
                "{.python}",
                "python {1}",
            )
        ],
        (f"1. Here:\n\n   ```python\n{textwrap.indent(F, '   ')}   ```\n", F),
        (f"> ```python\n{textwrap.indent(F, '> ')}> ```", F),
        (f"```python\n{F}```\n".replace("\n", "\r\n"), F),
        (f"```python\n{F}```\nprints\n```\n1\n```", F),
        (f"```python\n{F}```\nRun it:\n```bash\npython f.py\n```", F),
        (f"```python\nx\n```\n```python\n{F}```", F),
        (f"```python\n{F}```\n```python\nprint(f(", F),
        (f"```python\n{F}", F),
        (f"````python\n{F}```\n````", F + "```\n"),
        (f"<think>```python\nx\n```</think>\n```python\n{F}```", F),
        (f"<think>```python\n{F}```", ""),
        ("```bash\nls\n```", ""),
        (F, F),
    ],
)
def test_code_of_a_reply(reply, code):
    assert rules.code_of(reply) == code


def test_prose_that_is_valid_python_does_not_count_as_code():
    replies = ["Paris", "yes, thanks", "this is it", "...", "print(1)", "```python\nx\n```", "```\n# nothing\n```"]
    assert judged(rules.code_parses(), *replies) == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]


def test_code_does_not_run_without_allow_execution(tmp_path):
    for make in (rules.code_passes, lambda: load_function("reward_models.rules:code_passes?column=tests")):
        with pytest.raises(UserError, match="not allowed by default"):
            make()


def test_code_that_passes_its_tests():
    reward = load_function("reward_models.rules:code_passes?allow_execution=true&seconds=20")
    right, wrong = "```python\ndef f(x):\n    return x + 1\n```", "def f(x):\n    return x"
    tests = [["assert f(1) == 2", "assert f(2) == 3"]] * 2 + [None, "assert f(0) == 0"]
    assert judged(reward, right, wrong, right, wrong, tests=tests) == [1.0, 0.0, None, 1.0]
    check = "def check(candidate):\n    assert candidate(1) == 2"
    assert judged(reward, right, wrong, right, tests=[[check, "check(f)"]] * 2 + [""]) == [1.0, 0.0, None]
    for tests in (check, "import f", "'nothing'", "class TestF:\n    def test_f(self): assert f(1) == 2"):
        with pytest.raises(UserError, match="run nothing"):
            judged(reward, right, tests=[tests])
    with pytest.raises(UserError, match="no column 'tests'"):
        judged(reward, right)


def test_limits_that_are_too_tight_are_reported_at_once():
    with pytest.raises(UserError, match="cannot run code on this machine"):
        rules.code_passes(allow_execution=True, megabytes=4)
