"""Questions about replies, and the kinds of judges that answer them: endpoints, local models, comparers, rewards."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from alignment.errors import UserError
from reward_models.calls import scores_of
from reward_models.judges import principle_prompts, questions
from reward_models.judges.answer_store import Answer
from reward_models.judges.api import ApiJudge, GaveUp, Refused
from reward_models.judges.positions import checked_answers
from reward_models.protocol import Comparer, Reward, Text, reply_text, transcript

if TYPE_CHECKING:
    from reward_models.judges.local import LocalJudge

BLOCK = 128  # questions
ROUNDS = 16  # questions in a block of an endpoint per parallel request
ONE_QUESTION = (400, 413, 422)  # HTTP statuses that may concern a single question, such as one that is too long


@dataclass(frozen=True)
class PairQuestion:
    """Which of two replies is better.

    Attributes:
        principle: the text that asks, such as a principle's `prefer`; "" for a judge's own question.
        columns: further columns of the row, for rewards that read them.
    """

    prompt: Text
    a: Text
    b: Text
    principle: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)

    def swapped(self) -> PairQuestion:
        """The same question with b shown first."""
        return replace(self, a=self.b, b=self.a)

    @property
    def same_text(self) -> bool:
        return reply_text(self.a) == reply_text(self.b)


@dataclass(frozen=True)
class RatingQuestion:
    """How good a reply is; the attributes are as for `PairQuestion`."""

    prompt: Text
    completion: Text
    principle: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


Question = PairQuestion | RatingQuestion


@dataclass(frozen=True)
class Failure:
    """A question without an answer: the endpoint failed, or the question is too long.

    Attributes:
        lasting: whether another attempt is of no use.
    """

    why: str
    lasting: bool = False


Reply = Answer | Failure
TOO_LONG = Failure("the question is longer than the judge's context", lasting=True)
Keep = Callable[[int, Answer], None]  # called with a question's place and its answer as soon as it is known


class AskedJudge(Protocol):
    """A judge as `panel.py` asks it.

    Attributes:
        name: names the judge in results, and is unique in a panel.
        identity: all that changes the judge's answers besides the question, without secrets.
        requests: whether each question is a request, which a budget counts.
        whole: whether the questions of a block are always asked together: a local model's answers depend on the batch
            in the last digits, and have to be the same after a resume.
        block: questions that are asked in one call.
        sees_principles: whether the judge is shown a question's principle.
        retried: attempts after the first, so far.
    """

    name: str
    identity: Mapping[str, Any]
    requests: bool
    whole: bool

    @property
    def sees_principles(self) -> bool: ...

    @property
    def block(self) -> int: ...

    @property
    def retried(self) -> int: ...

    def text(self, question: Question) -> str:
        """The question as the judge sees it; equal texts have equal answers."""

    def ask(self, asked: Sequence[Question], texts: Sequence[str], keep: Keep) -> list[Reply]:
        """The answers to questions of one kind; `keep` may be called from several threads."""

    def require_ready(self, kind: type[Question]) -> None:
        """Raise a UserError for a judge that cannot answer this kind of question, before anything runs."""


@dataclass(frozen=True)
class Templates:
    """A judge's questions, with or without a principle in them; None for the judge's own.

    Attributes:
        pair, rating: templates of one's own, see `principle_prompts.pair_template` and `rating_template`.
    """

    pair: str | None = None
    rating: str | None = None

    def text(self, question: Question, pair: str, rating: str, scale: tuple[int, int], written: bool) -> str:
        """A question as text.

        Args:
            pair, rating: the judge's templates for questions without a principle.
            written: whether the judge writes its answer.
        """
        shown = {"prompt": transcript(question.prompt), "principle": question.principle}
        if isinstance(question, PairQuestion):
            stated = (
                principle_prompts.WRITTEN_PRINCIPLE_PAIR_PROMPT if written else principle_prompts.PRINCIPLE_PAIR_PROMPT
            )
            template = self.pair or (stated if question.principle else pair)
            return questions.fill(template, a=reply_text(question.a), b=reply_text(question.b), **shown)
        stated = (
            principle_prompts.WRITTEN_PRINCIPLE_RATING_PROMPT if written else principle_prompts.PRINCIPLE_RATING_PROMPT
        )
        template = self.rating or (stated if question.principle else rating)
        shown |= {"completion": reply_text(question.completion), "lowest": str(scale[0]), "highest": str(scale[1])}
        return questions.fill(template, **shown)


class AskedEndpoint:
    """An `ApiJudge` as an `AskedJudge`: parallel requests, each answer kept as soon as it arrives.

    If all questions of a block fail, or as many in a row as requests run in parallel, the endpoint has to answer a
    short question. If it does not, the run ends with an error, rather than with a failure for each remaining question.
    """

    requests, whole, sees_principles = True, False, True

    def __init__(self, judge: ApiJudge, name: str, templates: Templates):
        self.judge, self.name, self.templates = judge, name, templates
        self.identity: Mapping[str, Any] = judge.identity | {"scale": list(judge.ratings)}
        self.block = ROUNDS * judge.concurrency
        self._lock, self._in_a_row = threading.Lock(), 0

    @property
    def retried(self) -> int:
        return self.judge.retried

    def text(self, question: Question) -> str:
        return self.templates.text(question, self.judge.pair_template, self.judge.template, self.judge.ratings, True)

    def ask(self, asked: Sequence[Question], texts: Sequence[str], keep: Keep) -> list[Reply]:
        grade = self.judge.graded_preference if isinstance(asked[0], PairQuestion) else self.judge.graded_rating
        return self.ask_each(grade, texts, keep)

    def ask_each(self, grade: Callable[[str], Answer], texts: Sequence[str], keep: Keep) -> list[Reply]:
        """The answers to texts, each of which `grade` asks and reads."""
        threads = ThreadPoolExecutor(self.judge.concurrency)
        try:
            jobs = [threads.submit(self._ask_one, grade, text, partial(keep, at)) for at, text in enumerate(texts)]
            wait(jobs, return_when=FIRST_EXCEPTION)
            replies = [job.result() for job in jobs if job.done()]
        except BaseException:
            self.judge.stopping.set()  # Ctrl-C or an error: only the requests under way are awaited
            raise
        finally:
            threads.shutdown(cancel_futures=True)
            self.judge.stopping.clear()
        if all(isinstance(reply, Failure) for reply in replies):
            self.require_ready()
        return replies

    def _ask_one(self, grade: Callable[[str], Answer], text: str, keep: Callable[[Answer], None]) -> Reply:
        try:
            answer = grade(text)
        except GaveUp as error:
            with self._lock:
                self._in_a_row += 1
            if self._in_a_row >= self.judge.concurrency and not self.judge.stopping.is_set():
                self.require_ready()
            return Failure(str(error))
        except Refused as error:
            if error.status not in ONE_QUESTION:
                raise
            return Failure(str(error.got), lasting=True)
        self._in_a_row = 0
        keep(answer)
        return answer

    def require_ready(self, kind: type[Question] = PairQuestion) -> None:
        self.judge.require_ready()
        self._in_a_row = 0


class AskedModel:
    """A `LocalJudge` as an `AskedJudge`."""

    requests, whole, block, retried, sees_principles = False, True, BLOCK, 0, True

    def __init__(self, judge: LocalJudge, name: str, templates: Templates):
        self.judge, self.name, self.templates = judge, name, templates
        self.identity: Mapping[str, Any] = judge.identity | {"scale": judge.scale}

    def text(self, question: Question) -> str:
        scale = (self.judge.scale[0], self.judge.scale[-1])
        return self.templates.text(question, self.judge.pair_template, self.judge.template, scale, False)

    def ask(self, asked: Sequence[Question], texts: Sequence[str], keep: Keep) -> list[Reply]:
        fitting = [place for place, text in enumerate(texts) if self.judge.fits(text)]
        pairs = isinstance(asked[0], PairQuestion)
        answers = (self.judge.graded_preferences if pairs else self.judge.graded_ratings)([texts[at] for at in fitting])
        replies: list[Reply] = [TOO_LONG] * len(texts)
        for place, answer in zip(fitting, answers, strict=True):
            replies[place] = answer
            keep(place, answer)
        return replies

    def require_ready(self, kind: type[Question]) -> None:
        self.judge.require_ready(pairs=kind is PairQuestion)


class AskedComparer:
    """A class of one's own with a method `compare`, whose answers are 1, 0, 0.5, probabilities or None.

    A `compare` with a parameter `principles` is given a principle per pair.
    """

    requests, whole, block, retried = False, False, BLOCK, 0

    def __init__(self, judge: Comparer, name: str, identity: Mapping[str, Any]):
        self.judge, self.name, self.identity = judge, name, identity
        self.sees_principles = "principles" in inspect.signature(judge.compare).parameters

    def text(self, question: Question) -> str:
        return _content(question)

    def ask(self, asked: Sequence[Question], texts: Sequence[str], keep: Keep) -> list[Reply]:
        pairs = [question for question in asked if isinstance(question, PairQuestion)]
        sides = [[one.prompt for one in pairs], [one.a for one in pairs], [one.b for one in pairs]]
        given = {"principles": [one.principle for one in pairs]} if self.sees_principles else {}
        return _kept(checked_answers(self.judge, sides[0], sides[1], sides[2], **given), keep, probabilities=True)

    def require_ready(self, kind: type[Question]) -> None:
        if kind is not PairQuestion:
            raise UserError(
                f"the judge {self.name} compares two replies and gives no ratings",
                expected="a reward of single replies, or a language model as judge",
            )


class AskedReward:
    """A reward as a judge: its score is the rating, and of two replies the one with the higher score is better."""

    requests, whole, block, retried, sees_principles = False, True, BLOCK, 0, False

    def __init__(self, reward: Reward, name: str, identity: Mapping[str, Any]):
        self.reward, self.name, self.identity = reward, name, identity

    def text(self, question: Question) -> str:
        return _content(question)

    def ask(self, asked: Sequence[Question], texts: Sequence[str], keep: Keep) -> list[Reply]:
        rows: dict[str, RatingQuestion] = {}  # both positions of a pair share their scores
        sides = [[_rated(question, side) for side in _sides(question)] for question in asked]
        for one in (one for some in sides for one in some):
            rows.setdefault(_content(one), one)
        columns = {name: [one.columns.get(name) for one in rows.values()] for name in asked[0].columns}
        found = scores_of(
            self.reward, [one.prompt for one in rows.values()], [one.completion for one in rows.values()], columns
        )
        scores = dict(zip(rows, found, strict=True))
        values = [[scores[_content(one)] for one in some] for some in sides]
        return _kept([some[0] if len(some) == 1 else _higher(*some) for some in values], keep)

    def require_ready(self, kind: type[Question]) -> None:
        pass


def _sides(question: Question) -> list[Text]:
    return [question.a, question.b] if isinstance(question, PairQuestion) else [question.completion]


def _rated(question: Question, completion: Text) -> RatingQuestion:
    return RatingQuestion(question.prompt, completion, columns=question.columns)


def _higher(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else 0.5 + ((a > b) - (a < b)) / 2


def _content(question: Question) -> str:
    """All that a judge of one's own is given, as text."""
    content = [question.prompt, *_sides(question), question.principle, dict(question.columns)]
    return json.dumps(content, sort_keys=True, default=repr)


def _kept(values: Sequence[float | None], keep: Keep, probabilities: bool = False) -> list[Reply]:
    """Numbers as answers, kept; the answers of a comparer that are no verdicts are graded."""
    answers = [Answer(value, graded=probabilities and value not in (None, 0, 0.5, 1)) for value in values]
    for place, answer in enumerate(answers):
        keep(place, answer)
    return list(answers)
