"""How what a judge writes is read: a table of answers. An answer in doubt is None."""

import re

import pytest

from reward_models.judges.judge_answers import read_preference, read_rating

A, B, TIE = 1.0, 0.0, 0.5

PREFERENCES = [
    # the line that is asked for, as models write it
    ("Verdict: A", A),
    ("Verdict: tie", TIE),
    ("verdict: b.", B),
    ("**Verdict:** **A**", A),
    ("**Verdict: B**", B),
    ("`Verdict: A`", A),
    ("```\nVerdict: B\n```", B),
    ("My final verdict is: [[A]]", A),
    ("Final answer: \\boxed{B}", B),
    ('Verdict: "A"', A),
    ("Verdict\uff1a\uff22", B),
    ("### Verdict: Reply A", A),
    # other ways to say it
    ("A", A),
    ("(b)", B),
    (" **B**.", B),
    ("[[B]]", B),
    ("tie", TIE),
    ("Answer: a tie", TIE),
    ("Verdict: A tie.", TIE),
    ("answer: A and B are equal", TIE),
    ("Verdict: both replies are equally good", TIE),
    ("Neither reply is better.", TIE),
    ("The better reply is A", A),
    ("Better reply: B", B),
    ("I think the better response is B.", B),
    ("Reply A is better than reply B.", A),
    ("Verdict: A is better", A),
    # reasoning first, or an explanation after
    ("A is better than B in style, but wrong.\n\nVerdict: B", B),
    ("A is better than B in style, but wrong. Verdict: B", B),
    ("A is longer, but B is right. Better reply: B", B),
    ("The correct answer to the question is B.\nTherefore, the better reply is A.", A),
    ("Reply A names it; reply B does not.\n\n**A**", A),
    ("<think>\nVerdict: A\n</think>\nVerdict: B", B),
    ("Is it A?\nVerdict: A</think>\n\nB", B),
    ("<think>Is it A?\nVerdict: A", None),
    ("Verdict: A\nIt is right, and it is short.", A),
    # the reply holds a verdict of its own
    ('Reply A says "Verdict: A" to cheat.\nVerdict: B', B),
    ('Verdict: B\nReply A ends with "Verdict: A".', B),
    ("Verdict: B\nNote that reply A itself says Verdict: A", B),
    ("It reads:\n> Verdict: A\nVerdict: B", B),
    ("It reads:\n```\nVerdict: A\n```\nVerdict: B", B),
    ('The reply says "Verdict: A".', None),
    ("The reply says Verdict: A", None),
    ("> Verdict: A", None),
    # no verdict, or not one
    ("", None),
    (" \n", None),
    ("Both", None),
    ("A or B", None),
    ("not A", None),
    ("Verdict: not A", None),
    ("The better reply is not A", None),
    ("The better reply is A bit long", None),
    ("Verdict: A or B", None),
    ("Verdict: A / B / tie", None),
    ("Verdict: A, though B is close", None),
    ("Answer: B? No. Verdict: A", None),
    ("Verdict: A\nVerdict: B\nVerdict: tie", None),
    ("Verdict: A\n\nVerdict: B", None),
    ("Verdict: A\nWait, B is better.", None),
    ("Verdict: A is worse than B", None),
    ("Verdict: C", None),
    ("Verdict: \u0410", None),  # a Cyrillic letter
    ("Answer with A or B alone.\nBetter reply:", None),
    ("Both replies are right, so I will look at\nlength. A", None),
    ("\u56de\u7b54A\u66f4\u597d", None),  # a sentence in Chinese: "reply A is better"
    ("\u7ed3\u8bba\uff1aA", None),
    ("La mejor respuesta es A", None),
]

RATINGS = [
    # the line that is asked for, as models write it
    ("Rating: 3", 3.0),
    ("**Rating:** 3/5", 3.0),
    ("Rating: [[2]]", 2.0),
    ("rating = 4.5", 4.5),
    ("The rating is 4.", 4.0),
    ("My overall rating: 1", 1.0),
    ("Score: 5", 5.0),
    ("Rating: 4 / 5", 4.0),
    ("Rating: 4 out of 5.", 4.0),
    ("Rating\uff1a\uff14", 4.0),
    # the scale is repeated
    ("Rating (1-5): 4", 4.0),
    ("Rating [1-5]: 2", 2.0),
    ("Rating (1 to 5): 3", 3.0),
    ("Rating (1\u20135): 3", 3.0),
    ("Rating on a scale of 1 to 5: 4", 4.0),
    ("Rating, out of 5: 4", 4.0),
    ("Rating (out of 5): 4", 4.0),
    ("Rating from 1 (useless or harmful) to 5 (excellent)", None),
    ("Rating (1-5):", None),
    ("Rating: 1-5", None),
    ("Rating: 1 to 5", None),
    ("Rating: N", None),
    # the bare number
    ("4", 4.0),
    ("4.5\n", 4.5),
    ("4/5", 4.0),
    ("4 out of 5", 4.0),
    ("It is right.\n\n**4**", 4.0),
    # reasoning first, or an explanation after
    ("It names 3 facts. Rating: 2", 2.0),
    ("It names 3 facts, 2 of them wrong.\nRating: 2", 2.0),
    ("Rating: 4\nThe reply is right.", 4.0),
    ("Rating: 5, I thought at first.\nRating: 2", None),
    ("Accuracy is fine.\nRating: 5\nBut it invents a name.\nRating: 2", 2.0),
    ("Rating: 2\nRating: 4", None),
    ("Rating: 2. On reflection, rating = 5", None),
    ('It asks for "Rating: 5".\nRating: 1', 1.0),
    ('Rating: 1\nIt asks for "Rating: 5".', 1.0),
    ("It says Rating: 5", None),
    # off the scale, or another scale
    ("7", None),
    ("0", None),
    ("Rating: 7", None),
    ("10/10", None),
    ("Rating: 10/10", None),
    ("Rating: 4/10", None),
    ("Rating (1-10): 4", None),
    ("Rating: -4", None),
    ("Rating: .5", None),
    ("Rating: 4,5", None),
    ("Rating: 4\u00bd", None),
    ("Rating: 4%", None),
    # no rating
    ("", None),
    ("I cannot say", None),
    ("I rate it highly", None),
    ("I found 3 mistakes", None),
    ("It names 3 facts, 2 of them wrong.", None),
    ("4 of 5 facts are right", None),
    ("1. It is right.\n2. It is short.", None),
    ("Rating: four", None),
    ("\u8bc4\u5206\uff1a4", None),
    ("Bewertung: 4", None),
]


@pytest.mark.parametrize(("answer", "preference"), PREFERENCES)
def test_preferences_are_read(answer, preference):
    assert read_preference(answer) == preference


@pytest.mark.parametrize(("answer", "rating"), RATINGS)
def test_ratings_are_read(answer, rating):
    assert read_rating(answer, 1, 5) == rating


@pytest.mark.parametrize(
    ("lowest", "highest", "answer", "rating"),
    [
        (1, 10, "Rating: 10", 10.0),
        (1, 10, "Rating (1-10): 10/10", 10.0),
        (1, 10, "Rating (1-5): 4", None),
        (0, 100, "Rating (0-100): 87.5", 87.5),
        (0, 1, "Rating: 0.25", 0.25),
        (-5, 5, "Rating: -3", -3.0),
    ],
)
def test_the_scale_is_the_one_that_was_asked_for(lowest, highest, answer, rating):
    assert read_rating(answer, lowest, highest) == rating


def test_the_two_sides_are_read_alike():
    """Exchanging the letters exchanges the preference, in every answer of the table."""
    letters = str.maketrans("ABab", "BAba")
    for answer, preference in PREFERENCES:
        if preference in (A, B) and answer.isascii():
            other = re.sub(r"\b[ABab]\b", lambda letter: letter[0].translate(letters), answer)
            assert read_preference(other) == 1 - preference, other
