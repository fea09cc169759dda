"""The opinions of one or several judges on pairs of replies or single replies, with an account of every question."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alignment.errors import UserError, gathered, raise_all
from reward_models.judges.answer_store import Answer, AnswerStore
from reward_models.judges.asked import AskedJudge, Failure, PairQuestion, Question, RatingQuestion, Reply
from reward_models.judges.asking import Account, Progress, answers_of
from reward_models.judges.positions import combined

OVER_BUDGET, FAILED, UNREADABLE, SAME_TEXT = "over budget", "failed", "unreadable", "same text"


@dataclass(frozen=True)
class JudgeOnPair:
    """A judge's answers about a pair.

    Attributes:
        a_first, b_first: the probability that the reply shown first is better, with a or b shown first; None without an
            answer.
        preference, agree, position_effect: see `positions.Combined`.
        graded: whether the confidence is known in both positions; otherwise the answers are 1, 0.5 and 0.
    """

    judge: str
    a_first: float | None
    b_first: float | None
    preference: float | None
    agree: bool | None
    position_effect: float | None
    graded: bool


@dataclass(frozen=True)
class PairOpinion:
    """The opinion of all judges on a pair.

    Attributes:
        preference: the mean over judges of the probability that a is better; None for no opinion.
        reason: why there is no opinion: OVER_BUDGET, FAILED or UNREADABLE; SAME_TEXT for a tie that was not asked;
            otherwise "".
        judges: each judge's answers; empty if none was asked.
    """

    preference: float | None
    reason: str = ""
    judges: tuple[JudgeOnPair, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether no judge contradicts itself or another judge; False without an opinion."""
        sides = {_side(one.preference) for one in self.judges if one.preference is not None}
        return len(sides) == 1 and all(one.agree for one in self.judges if one.agree is not None)


@dataclass(frozen=True)
class RatingOpinion:
    """The opinion of all judges on a reply.

    Attributes:
        rating: the mean over judges; None for no opinion.
        reason: as for `PairOpinion`.
        judges: the rating of each judge by its name; empty if none was asked.
    """

    rating: float | None
    reason: str = ""
    judges: Mapping[str, float | None] = field(default_factory=dict)


def require_ready(judges: Sequence[AskedJudge], kind: type[Question] = PairQuestion) -> None:
    """Raise a UserError, for all judges together, before anything runs: see `AskedJudge.require_ready`."""
    errors: list[UserError] = []
    for judge in judges:
        with gathered(errors):
            judge.require_ready(kind)
    raise_all(errors)


def judge_pairs(
    judges: Sequence[AskedJudge],
    pairs: Sequence[PairQuestion],
    store: AnswerStore,
    max_requests: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[PairOpinion], Account]:
    """Ask each judge about each pair in both positions.

    Pairs are asked in their order, so that the answers, and the pairs that a budget reaches, do not depend on timing.
    Pairs of the same text are ties and are not asked.

    Args:
        store: of answers; questions with a stored answer are not asked.
        max_requests: questions to endpoints; the pairs that they do not reach have no opinion. Retries of a question do
            not count, stored answers that this run (`AnswerStore.run`) paid for do.
        progress: called in this thread with the number of questions that are done, and of all.

    Raises:
        UserError: an endpoint has stopped to answer, or refuses all requests. All answers so far are in the store.
    """
    both = [() if pair.same_text else (pair, pair.swapped()) for pair in pairs]
    account, answers = answers_of(judges, both, store, max_requests, progress)
    opinions = []
    for asked, found in zip(both, answers, strict=True):
        if not asked:
            opinions.append(PairOpinion(0.5, SAME_TEXT))
        elif found is None:
            opinions.append(PairOpinion(None, OVER_BUDGET))
        else:
            opinions.append(_pair_opinion(judges, found))
    _count(account, [one.preference for one in opinions], [one.reason for one in opinions])
    account.ties = sum(one.preference == 0.5 for one in opinions)
    for one in (one for opinion in opinions for one in opinion.judges):
        account.judges[one.judge].inconsistent += one.agree is False
    return opinions, account


def judge_ratings(
    judges: Sequence[AskedJudge],
    replies: Sequence[RatingQuestion],
    store: AnswerStore,
    max_requests: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[RatingOpinion], Account]:
    """Ask each judge for a rating of each reply; the arguments are as for `judge_pairs`."""
    account, answers = answers_of(judges, [(one,) for one in replies], store, max_requests, progress)
    opinions = []
    for found in answers:
        if found is None:
            opinions.append(RatingOpinion(None, OVER_BUDGET))
            continue
        ratings = [_value(one) for (one,) in found]
        mean = _mean(ratings)
        reason = "" if mean is not None else _reason([one for some in found for one in some])
        names = [judge.name for judge in judges]
        opinions.append(RatingOpinion(mean, reason, dict(zip(names, ratings, strict=True))))
    _count(account, [one.rating for one in opinions], [one.reason for one in opinions])
    return opinions, account


def _pair_opinion(judges: Sequence[AskedJudge], found: Sequence[Sequence[Reply]]) -> PairOpinion:
    """The opinion from each judge's replies in both positions."""
    opinions = []
    for judge, (a_first, b_first) in zip(judges, found, strict=True):
        values = _value(a_first), _value(b_first)
        both = combined(*values)
        graded = all(isinstance(one, Answer) and one.graded for one in (a_first, b_first))
        opinions.append(JudgeOnPair(judge.name, *values, both.preference, both.agree, both.position_effect, graded))
    mean = _mean([one.preference for one in opinions])
    reason = "" if mean is not None else _reason([one for some in found for one in some])
    return PairOpinion(mean, reason, tuple(opinions))


def _count(account: Account, values: Sequence[float | None], reasons: Sequence[str]) -> None:
    account.opinions = sum(value is not None for value in values)
    account.without = Counter(reason for value, reason in zip(values, reasons, strict=True) if value is None)


def _value(reply: Reply) -> float | None:
    return reply.value if isinstance(reply, Answer) else None


def _reason(replies: Sequence[Reply]) -> str:
    return FAILED if any(isinstance(one, Failure) for one in replies) else UNREADABLE


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _side(preference: float) -> int:
    return (preference > 0.5) - (preference < 0.5)
