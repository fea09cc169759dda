"""Which questions are asked: what a budget reaches, what a resume asks again, and what is counted."""

import pytest

from reward_models.judges.answer_store import Answer, AnswerStore
from reward_models.judges.asked import Failure, PairQuestion, RatingQuestion, Templates
from reward_models.judges.asking import answers_of, within_budget


class Judge:
    """A judge without a model, whose answer is the length of the reply; it records what it is asked."""

    name, block, retried, identity, sees_principles = "judge", 4, 0, {"model": "m"}, True

    def __init__(self, whole: bool = False, fails: tuple[str, ...] = (), requests: bool = True):
        self.whole, self.fails, self.requests, self.calls = whole, list(fails), requests, []

    def text(self, question):
        return question.completion

    def ask(self, asked, texts, keep):
        self.calls.append(list(texts))
        replies = []
        for place, text in enumerate(texts):
            failed = text in self.fails
            replies.append(Failure("busy", lasting=text == "lasting") if failed else Answer(float(len(text))))
            if failed:
                self.fails.remove(text)  # the next attempt has an answer
            else:
                keep(place, replies[-1])
        return replies


def rows(*texts: str):
    return [[RatingQuestion("q", text) for text in row.split()] for row in texts]


@pytest.fixture
def store(tmp_path):
    with AnswerStore(tmp_path / "answers") as made:
        yield made


def test_a_budget_ends_at_the_first_row_that_does_not_fit(store):
    keys = [["a", "b"], ["c"], ["a", "c"], ["d", "e"], ["f"], ["b"], []]
    assert within_budget([keys], 7, store, 4) == ([0, 1, 2, 5, 6], 3)  # f would fit, but comes after d and e
    assert within_budget([keys], 7, store, None) == ([0, 1, 2, 3, 4, 5, 6], 6)
    assert within_budget([keys, [["x"]] * 7], 7, store, 0) == ([], 0)
    assert within_budget([], 3, store, 0) == ([0, 1, 2], 0)  # judges without requests


def test_a_local_judge_answers_whole_blocks_again(tmp_path):
    """Its answers depend on the batch in the last digits, so that a resume has to make the same batches."""
    questions = rows(*(str(10**number) for number in range(10)))
    for whole, calls in ((True, [4, 4, 2]), (False, [3, 2, 2])):
        path = tmp_path / str(whole)
        with AnswerStore(path) as store:
            for at in (0, 5, 6):
                answers_of([Judge()], questions[at : at + 1], store)
            judge = Judge(whole)
            account, answers = answers_of([judge], questions, store)
        assert [len(call) for call in judge.calls] == calls
        assert [found[0][0].value for found in answers] == [float(number + 1) for number in range(10)]
        assert account.judges["judge"].from_store == 3 and account.judges["judge"].asked == 7


def test_failed_questions_are_asked_once_more_at_the_end(store):
    judge = Judge(fails=("bb", "lasting", "dddd", "dddd"))
    seen = []
    account, answers = answers_of(
        [judge], rows("a", "bb", "lasting", "dddd", "eeeee"), store, progress=lambda *state: seen.append(state)
    )
    assert judge.calls == [["a", "bb", "lasting", "dddd"], ["eeeee"], ["bb", "dddd"]]
    assert [found[0][0] for found in answers] == [
        Answer(1.0), Answer(2.0), Failure("busy", lasting=True), Failure("busy"), Answer(5.0),
    ]  # fmt: skip
    assert (account.judges["judge"].failed, account.judges["judge"].failure) == (2, "busy")
    assert seen[-1] == (5, 5) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_judge_that_is_not_shown_the_principles_is_named(store, caplog):
    asked = [[RatingQuestion("q", "a", "Be kind.")]]
    answers_of([Judge()], asked, store)
    assert not caplog.text
    blind = Judge()
    blind.sees_principles, blind.name = False, "length"
    answers_of([Judge(), blind], asked, store)
    assert "not shown the principles, which count for nothing there: length" in caplog.text


def test_the_question_states_the_principle_in_the_form_that_the_judge_answers():
    pair, reply = PairQuestion("q", "x", "y", "Be {a} kind."), RatingQuestion("q", "x", "How kind?")
    own = {"pair": "own {a}{b}", "rating": "own {completion}", "scale": (1, 3)}
    written, read = (Templates().text(pair, written=written, **own) for written in (True, False))
    assert "Be {a} kind." in written and "[Reply A]\nx\n" in written and written.endswith("Verdict: tie")
    assert "Be {a} kind." in read and read.endswith("Better reply:")
    assert "How kind?" in Templates().text(reply, written=True, **own)
    assert "from 1 (" in Templates().text(reply, written=False, **own)
    assert Templates().text(PairQuestion("q", "x", "y"), written=True, **own) == "own xy"
    assert Templates("{b}{a}", "{highest}").text(reply, written=True, **own) == "3"


def test_equal_questions_are_asked_once(store):
    first, second = Judge(), Judge()
    second.name = "other"
    account, _ = answers_of([first, second], rows("a b", "b a", "c a"), store)
    assert first.calls == [["a", "b", "c"]] and second.calls == []  # the same judge twice
    assert account.judges["other"].from_store == 3 and account.requests == 3
