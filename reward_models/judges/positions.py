"""A judge's preference between two replies that does not depend on which it sees first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alignment.errors import UserError
from reward_models.calls import copied, source_of
from reward_models.protocol import Comparer, Text, reply_text
from reward_models.returned import listed, numbers
from reward_models.user_code import user_code


@dataclass(frozen=True)
class BothPositions:
    """Preferences for a over b: 1 if a is better, 0 if b is better, 0.5 for a tie, None for no opinion.

    Attributes:
        preferences: one per pair, see `agreed`; the same text twice is a tie.
        a_first, b_first: the judge's answers with a shown first and with b shown first, for the pairs that differ.
    """

    preferences: list[float | None]
    a_first: list[float | None]
    b_first: list[float | None]


def judge_in_both_positions(
    judge: Comparer, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]
) -> BothPositions:
    """Ask a judge about each pair of replies twice, with either reply first; pairs of the same text are not asked.

    A probability counts as a verdict for the reply that it prefers.

    Raises:
        UserError: the judge does not answer each pair with a number from 0 to 1 or None.
    """
    differ = [at for at, (one, other) in enumerate(zip(a, b, strict=True)) if reply_text(one) != reply_text(other)]
    if not differ:
        return BothPositions([0.5] * len(a), [], [])
    asked, left, right = ([side[at] for at in differ] for side in (prompts, a, b))
    a_first = [_verdict(answer) for answer in checked_answers(judge, asked, left, right)]
    b_first = [_verdict(None if one is None else 1 - one) for one in checked_answers(judge, asked, right, left)]
    preferences: list[float | None] = [0.5] * len(a)
    for at, one, other in zip(differ, a_first, b_first, strict=True):
        preferences[at] = agreed(one, other)
    return BothPositions(preferences, a_first, b_first)


def _verdict(probability: float | None) -> float | None:
    """1, 0.5 or 0: the side of a probability."""
    return None if probability is None else 0.5 + _side(probability) / 2


def agreed(a_first: float | None, b_first: float | None) -> float | None:
    """The tie rule of every judge: 1 or 0 if both positions say so, otherwise 0.5; None if either has no opinion.

    A win in one position and a tie in the other are therefore a tie.

    Args:
        a_first, b_first: the preference for a with a shown first, and with b shown first.
    """
    if a_first is None or b_first is None:
        return None
    return a_first if a_first == b_first else 0.5


@dataclass(frozen=True)
class Combined:
    """A judge's graded answers about a pair in both positions.

    Attributes:
        preference: the mean probability that a is better; None if either position has no answer.
        agree: whether both positions prefer the same reply, or both neither; None like `preference`.
        position_effect: how much of the probability is owed to being shown first, in [-0.5, 0.5]: half the difference
            between a's probabilities when shown first and when shown second.
    """

    preference: float | None
    agree: bool | None
    position_effect: float | None


def combined(a_first: float | None, b_first: float | None) -> Combined:
    """Combine the answers in both positions.

    Args:
        a_first: the probability that the reply shown first is better, with a shown first.
        b_first: the same with b shown first.
    """
    if a_first is None or b_first is None:
        return Combined(None, None, None)
    agree = _side(a_first) == -_side(b_first)
    return Combined(0.5 + (a_first - b_first) / 2, agree, (a_first + b_first - 1) / 2)


def _side(probability: float) -> int:
    """1 for the first reply, -1 for the second, 0 for neither."""
    return (probability > 0.5) - (probability < 0.5)


def checked_answers(
    judge: Comparer, prompts: list[Text], a: list[Text], b: list[Text], **given: list[str]
) -> list[float | None]:
    """The answers of a judge of one's own to pairs in the order given.

    Args:
        given: further arguments of its `compare`.

    Raises:
        UserError: the judge fails, or does not answer each pair with a number from 0 to 1 or None.
    """
    name = getattr(judge, "__name__", type(judge).__name__)
    with user_code(
        f"The comparison of the judge {name} failed.", source_of(type(judge).compare)[0], "correct the judge"
    ):
        values = listed(judge.compare(*(copied(list(side)) for side in (prompts, a, b)), **given), len(prompts), name)
    answers = numbers(values, name, a)
    bad = [answer for answer in answers if answer is not None and not 0 <= answer <= 1]
    if bad:
        raise UserError(
            f"the answers of the judge {name} cannot be read",
            got=f"{bad[0]!r} among them",
            expected="1, 0.5, 0, the probability that a is better, or None for each prompt",
        )
    return answers
