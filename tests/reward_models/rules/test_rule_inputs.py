"""Rules on replies in all scripts, and on replies that are empty, very long or malformed."""

# ruff: noqa: RUF001 (characters that look like Latin letters are what is tested)

import time

import pytest

from alignment.errors import UserError
from reward_models.functions import load_reward, require_columns
from reward_models.rules import rules


def reward_of(rule, reply, **columns):
    return rule(completions=[reply], **{name: [value] for name, value in columns.items()})[0]


# ---- Forbidden words ----

WORDS = [
    ("悪い", "これは悪いです", True),
    ("好", "你好吗", True),
    ("好", "你坏吗", False),
    ("ไม่ดี", "มันไม่ดีเลย", True),
    ("ไม่ดี", "มันดีมาก", False),
    ("ガラス", "そのｶﾞﾗｽは", True),
    ("ガ", "カ", False),
    ("か\u3099", "きがする", True),
    ("bad", "とてもbadです", True),
    ("bad", "badly です", False),
    ("bad", "ｂａｄ", True),
    ("悪い bad", "とても悪い badです", True),
    ("ខ្មែរ", "ភាសាខ្មែរនេះ", True),
    ("바보", "그는 바보", True),
    ("바보", "그는 바보입니다", False),
    ("ab", "xab", False),
    ("100", "全部で100円", True),
    ("100", "全部で1000円", False),
    ("é", "e", False),
]


@pytest.mark.parametrize(("word", "reply", "found"), WORDS)
def test_forbidden_words_in_all_scripts(word, reply, found):
    """Where words have no spaces between them, a word is found within its text."""
    assert reward_of(rules.without_words([word]), reply) == (-1.0 if found else 0.0)


# ---- Answers ----

ANSWERS = [
    ("答えは42です", "42", 1),
    ("答えは42です。", "42", 1),
    ("計算すると、3+4=7なので、答えは7です。", "7", 1),
    ("答えは４２です。", "42", 1),
    ("答え：42", "42", 1),
    ("正解は東京です。", "東京", 1),
    ("答えは42個です。", "42", 1),
    ("答えは42個です。", "42個", 1),
    ("答案是42", "42", 1),
    ("所以答案是42。", "42", 1),
    ("答案：42元", "42", 1),
    ("答案为-3。", "-3", 1),
    ("คำตอบคือ42ครับ", "42", 1),
    ("คำตอบคือ 42 บาท", "42", 1),
    ("정답은 42입니다.", "42", 1),
    ("답은 42개입니다.", "42", 1),
    ("٤٢", "42", 1),
    ("42", "٤٢", 1),
    ("٣٫٥", "3.5", 1),
    ("४२", "42", 1),
    ("𝟒𝟐", "42", 1),
    ("４２", "42", 1),
    (r"\boxed{４２}", "42", 1),
    ("#### 42人", "42", 1),
    ("42。", "42", 1),
    ("42です", "42", 1),
    ("答えは42ではありません。", "42", 0),
    ("答えは 42 ではありません。", "42", 0),
    ("答えは42です。違います。", "42", 0),
    ("答えは42です。いや、43です。", "42", 0),
    ("答えは42か43です。", "42", 0),
    ("答えは42ですか？", "42", 0),
    ("答えは42以上です。", "42", 0),
    ("答えは約42です。", "42", 0),
    ("答えは42万です。", "42", 0),
    ("答案不是42", "42", 0),
    ("答案是42吗？", "42", 0),
    ("答案是42或43", "42", 0),
    ("答案是42，不对。", "42", 0),
    ("答案是 42 不对", "42", 0),
    ("คำตอบคือ 42 หรือ 43", "42", 0),
    ("คำตอบไม่ใช่ 42", "42", 0),
    ("정답은 42가 아닙니다.", "42", 0),
    ("答えは42円です。", "42個", 0),
    ("答えは41です。", "42", 0),
    ("第42页", "42", 0),
    ("²", "2", 0),
    (r"\boxed{²}", "2", 0),
    ("5²", "25", 1),
    ("①", "1", 0),
    ("−42", "-42", 1),
    ("1.000,5", "1000.5", 0),
    ("1.000,5", "1.0005", 0),
    ("1,000.5", "1000.5", 1),
    ("5，6", "56", 0),
    ("1，000", "1", 0),
    ("😀 42", "42", 1),
    ("\ud800 42", "42", 1),
    ("", "42", 0),
    ("\u200b", "42", 0),
]


@pytest.mark.parametrize(("reply", "truth", "right"), ANSWERS)
def test_answers_in_all_scripts(reply, truth, right):
    assert reward_of(rules.answer_match(), reply, answer=truth) == right


TRUTHS = [
    (["34", 35], ["34", "35", "36"], [1, 1, 0]),
    ('["34"]', ["34", "35"], [1, 0]),
    ("[34]", ["34", "[34]", "35"], [1, 1, 0]),
    ('["34", "35"]', ["35", "36"], [1, 0]),
    ('[["34"]]', ["34"], [1]),
    ('["\\\\frac{1}{2}"]', [r"\boxed{\frac12}", "2"], [1, 0]),
    ([["5"]], ["5", "6"], [1, 0]),
    ([["5"], ["6"]], ["6", "7"], [1, 0]),
    ("[1, 2]", ["[1, 2]", "1", "2"], [1, 0, 0]),  # an interval
    ([[1, 2]], ["[1, 2]", "1"], [1, 0]),
    ("[0, \\infty)", [r"[0, \infty)", "0"], [1, 0]),
    ("{1, 2}", ["{2, 1}"], [1]),
    ('"34"', ["34"], [1]),
    ('{"a": 1}', ['{"a": 1}'], [1]),
    ([], ["34"], [None]),
    ([None, ""], ["34"], [None]),
    (float("nan"), ["nan"], [None]),
    (34, ["34"], [1]),
    (34.0, ["34"], [1]),
]


@pytest.mark.parametrize(("truth", "replies", "scores"), TRUTHS)
def test_true_answers_as_data_sets_hold_them(truth, replies, scores):
    reward = rules.answer_match()
    assert [reward_of(reward, reply, answer=truth) for reply in replies] == scores


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ({"ground_truth": "34", "style": "rule"}, "columns: {reward_model.ground_truth: answer}"),
        ({"style": "rule", "value": 34}, "columns: {reward_model.value: answer}"),
        ('{"ground_truth": "34"}', "columns: {reward_model.ground_truth: answer}"),
        ([{"answer": "34"}], "columns: {reward_model.answer: answer}"),
        ('[{"answer": "34"}]', "columns: {reward_model.answer: answer}"),
        ([["5", "6"]], "one list"),
    ],
)
def test_columns_without_answers_are_refused(truth, said):
    """The text of an object would never be the answer, so that every reply would score 0."""
    reward = load_reward("rules:answer_match?column=reward_model")
    with pytest.raises(UserError) as caught:
        reward(prompts=["p"], completions=["34"], reward_model=[truth])
    assert said in str(caught.value) and "reward_model" in str(caught.value)


def test_a_dotted_column_is_refused_with_the_key_that_reads_it():
    for spec in ("rules:answer_match", "rules:code_passes?allow_execution=true&column=reward_model.ground_truth"):
        spec += "" if "?" in spec else "?column=reward_model.ground_truth"
        for refused in (lambda one: require_columns(one, ["prompt", "reward_model"]), refuse_loaded):
            with pytest.raises(UserError) as caught:
                refused(spec)
            assert "columns: {reward_model.ground_truth: answer}" in str(caught.value)


def refuse_loaded(spec):
    load_reward(spec).require_columns(["prompt", "reward_model"])


# ---- Very long and malformed replies ----

MANY = 20_000
LONG = {
    "digits": "9" * 10 * MANY,
    "brackets": "(" * MANY,
    "braces": "\\boxed{" + "{" * MANY + "}",
    "an open box": r"\boxed{" * (MANY // 10),
    "spaces": " " * MANY + "x",
    "signs": "-" * MANY + "1",
    "dollars": "$" * MANY,
    "numbers": "1 " * MANY,
    "groups": "1,111" * MANY,
    "points": "3." * MANY,
    "guesses": "x = 1, " * (MANY // 5),
    "denials": "not " * MANY + "3",
    "statements": "answer is " * (MANY // 5),
    "lists": "[" * MANY + "]" * MANY,
    "fences": "```" * MANY,
    "lines": "\n" * MANY,
    "words without spaces": "答" * MANY,
    "attached answers": "答えは1です。" * (MANY // 10),
    "surrogates": "\ud800" * 1000,
    "emoji": "\U0001f600\u200d" * 10_000,
    "marks": "e" + "\u0301" * 10_000,
    "a null": "1\x00",
}
RULES = {
    "answer_match": lambda: rules.answer_match(),
    "parses_as_json": lambda: rules.parses_as_json(["a"]),
    "length_band": lambda: rules.length_band(1, 5, 5),
    "length_penalty": lambda: rules.length_penalty(0.1, unit="characters"),
    "without_words": lambda: rules.without_words(["bad", "悪い", "a b"]),
    "code_parses": lambda: rules.code_parses(),
    "matches": lambda: rules.matches(r"\d+$"),
}


@pytest.mark.parametrize("name", RULES)
def test_long_and_malformed_replies_are_judged_in_time(name):
    rule = RULES[name]()
    for case, reply in LONG.items():
        began = time.process_time()
        score = reward_of(rule, reply, answer="3")
        assert score is None or score == score, case
        assert time.process_time() - began < 3, case


def test_numbers_of_any_length_are_json():
    rule = rules.parses_as_json()
    assert reward_of(rule, "9" * MANY) == reward_of(rule, f'{{"a": -{"1" * 5000}}}') == 1
    assert reward_of(rule, "9" * MANY + "x") == reward_of(rule, "NaN") == reward_of(rule, "") == 0


def test_a_pattern_that_takes_too_long_has_no_opinion(caplog):
    """The model could otherwise stop its training with a reply."""
    rule = rules.matches(r"(a+)+$")
    replies = ["aaa", "a" * 40 + "b", "b", "x" + "a" * 9]
    assert rule(completions=replies) == [1.0, None, 0.0, 1.0]
    assert "1 of 4 replies" in caplog.text


PATTERNS = [(r"\\frac{e}", r"\frac{e}{2}"), (r"^a.b$", "a\nb"), (r"(?i)ÉTÉ", "été"), ("\\ud800", "\ud800"), ("", "")]


@pytest.mark.parametrize(("pattern", "reply"), PATTERNS)
def test_patterns_mean_what_they_mean_in_python(pattern, reply):
    assert reward_of(rules.matches(pattern), reply) == 1


WRONG = {
    "rules:matches?pattern=(": "not a regular expression",
    "rules:length_band?low=5&high=1": "not a valid length band",
    "rules:length_band?low=1&high=2&unit=pages": "unit of length",
    "rules:length_penalty?each=nan": "each",
    "rules:length_penalty?each=0.1&unit=pages": "unit of length",
    "rules:without_words?words=": "no words to forbid",
    "rules:without_words?file=nowhere.txt": "no file nowhere.txt",
    "rules:without_words?words=a&penalty=inf": "penalty",
    "rules:code_passes?": "allow_execution",
    "rules:code_passes?allow_execution=true&seconds=0": "within its limits",
}


@pytest.mark.parametrize("spec", WRONG)
def test_options_of_rules_that_make_no_sense(spec):
    with pytest.raises(UserError, match=WRONG[spec]):
        load_reward(spec)


def test_a_file_of_words_that_is_no_text(tmp_path):
    (tmp_path / "words.txt").write_bytes("böse".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        load_reward(f"rules:without_words?file={tmp_path / 'words.txt'}")
    with pytest.raises(UserError, match=r"no file .*tmp|no file"):
        load_reward(f"rules:without_words?file={tmp_path}")
