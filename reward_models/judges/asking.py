"""Asking judges: which questions a budget reaches, which are in the store, and what became of each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

from reward_models.judges.answer_store import Answer, AnswerStore, answer_key
from reward_models.judges.asked import AskedJudge, Failure, Question, Reply

logger = logging.getLogger(__name__)

LONGEST_EXAMPLE = 200  # characters of a failure or an unreadable answer in an account
Progress = Callable[[int, int], None]
Rows = Sequence[Sequence[Question]]  # the questions about each pair or reply; none for a row that is not asked
Answers = list[list[list[Reply]] | None]  # row -> judge -> the reply to each question; None for a row over the budget


@dataclass
class JudgeAccount:
    """What became of the questions to a judge.

    Attributes:
        questions: distinct questions; each was asked, or its answer was in the store, or it is over the budget.
        asked: questions that were asked now, or by this part of the run before it was resumed.
        from_store: questions whose answer was stored by another part or run, or was given to another judge.
        retried: attempts after a question's first, since the last resume.
        failed: questions without an answer after the last attempt; they are not stored.
        unreadable: answers that cannot be read.
        graded: answers with a confidence.
        over_budget: questions that were not asked.
        inconsistent: pairs with different preferences in the two positions.
        failure, unread: an example of each.
    """

    questions: int = 0
    asked: int = 0
    from_store: int = 0
    retried: int = 0
    failed: int = 0
    unreadable: int = 0
    graded: int = 0
    over_budget: int = 0
    inconsistent: int = 0
    failure: str = ""
    unread: str = ""


@dataclass
class Account:
    """What became of pairs or replies.

    Attributes:
        rows: pairs or replies; each has an opinion or a reason for having none.
        opinions: rows with an opinion, those of SAME_TEXT included.
        ties: pairs whose preference is 0.5, those of SAME_TEXT included.
        without: rows by reason.
        requests: questions that count against the budget, whether asked now or before a resume.
        judges: by name.
    """

    rows: int = 0
    opinions: int = 0
    ties: int = 0
    requests: int = 0
    without: Counter[str] = field(default_factory=Counter)
    judges: dict[str, JudgeAccount] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON."""
        return asdict(self) | {"without": dict(sorted(self.without.items()))}


def answers_of(
    judges: Sequence[AskedJudge],
    rows: Rows,
    store: AnswerStore,
    max_requests: int | None = None,
    progress: Progress | None = None,
) -> tuple[Account, Answers]:
    """The answers of each judge to each row's questions; the arguments are as for `panel.judge_pairs`."""
    blind = [judge.name for judge in judges if not judge.sees_principles]
    if blind and any(question.principle for row in rows for question in row):
        logger.warning("not shown the principles, which count for nothing there: %s", ", ".join(blind))
    account = Account(rows=len(rows))
    keys = [[[_key(judge, one) for one in row] for row in rows] for judge in judges]
    paid = [of_judge for judge, of_judge in zip(judges, keys, strict=True) if judge.requests]
    within, account.requests = within_budget(paid, len(rows), store, max_requests)
    chosen = []  # per judge: key -> question, in the order of the rows
    for judge, of_judge in zip(judges, keys, strict=True):
        chosen.append({key: one for at in within for key, one in zip(of_judge[at], rows[at], strict=True)})
        distinct = len({key for some in of_judge for key in some})
        account.judges[judge.name] = JudgeAccount(distinct, over_budget=distinct - len(chosen[-1]))
    total, done = sum(map(len, chosen)), 0
    replies, before = [], set[str]()
    for judge, questions in zip(judges, chosen, strict=True):
        found: dict[str, Reply] = {}
        own = {key for key in questions if store.asked_before(key)} - before
        before |= own
        for part in _asked(judge, questions, store, account.judges[judge.name], own):
            found |= part
            if progress is not None:
                progress(done + len(found), total)
        done += len(found)
        replies.append(found)
    reached = set(within)
    return account, [
        [[found[key] for key in of_judge[at]] for found, of_judge in zip(replies, keys, strict=True)]
        if at in reached
        else None
        for at in range(len(rows))
    ]


def within_budget(
    keys: Sequence[Sequence[Sequence[str]]], rows: int, store: AnswerStore, max_requests: int | None
) -> tuple[list[int], int]:
    """The rows that a budget reaches, and how many questions count against it.

    Rows are taken in their order and as a whole, until the first that does not fit; later rows are taken only if they
    cost nothing.

    Args:
        keys: judge -> row -> questions, of the judges whose questions count.
    """
    counted: set[str] = set()
    reached, full = [], False
    for at in range(rows):
        new = {key for of_judge in keys for key in of_judge[at] if not store.free(key)} - counted
        full = full or (max_requests is not None and len(counted) + len(new) > max_requests)
        if not (new and full):
            counted |= new
            reached.append(at)
    return reached, len(counted)


def _asked(
    judge: AskedJudge, questions: Mapping[str, Question], store: AnswerStore, account: JudgeAccount, own: Set[str]
) -> Iterator[dict[str, Reply]]:
    """Yield replies to a judge's questions, block by block; those that failed are asked once more at the end.

    Args:
        own: stored answers that count as asked.
    """
    retried, stored = judge.retried, {key for key in questions if store.get(key) is not None} - own
    failures: dict[str, Failure] = {}
    for keys in _blocks(list(questions), judge.block):
        failures |= _ask_block(judge, {key: questions[key] for key in keys}, store)
        yield {key: answer for key in keys if (answer := store.get(key)) is not None}
    yield {key: failure for key, failure in failures.items() if failure.lasting}
    for keys in _blocks([key for key, failure in failures.items() if not failure.lasting], judge.block):
        again = _ask_block(judge, {key: questions[key] for key in keys}, store)
        failures |= again
        yield {key: store.get(key) or again[key] for key in keys}
    answers = [answer for key in questions if (answer := store.get(key)) is not None]
    account.from_store, account.asked = len(stored), len(questions) - len(stored)
    account.retried = judge.retried - retried
    account.failed = len(questions) - len(answers)
    account.unreadable = sum(answer.value is None for answer in answers)
    account.graded = sum(answer.graded for answer in answers)
    lost = (one.why for key, one in failures.items() if store.get(key) is None)
    account.failure = next(lost, "")[:LONGEST_EXAMPLE]
    account.unread = next((answer.said for answer in answers if answer.value is None), "")[-LONGEST_EXAMPLE:]


def _ask_block(judge: AskedJudge, questions: Mapping[str, Question], store: AnswerStore) -> dict[str, Failure]:
    """Ask the questions of a block that have no stored answer; the failures among the replies."""
    missing = [key for key in questions if store.get(key) is None]
    if not missing:
        return {}
    keys = list(questions) if judge.whole else missing
    asked = [questions[key] for key in keys]

    def keep(place: int, answer: Answer) -> None:
        store.put(keys[place], answer)

    replies = judge.ask(asked, [judge.text(one) for one in asked], keep)
    return {key: one for key, one in zip(keys, replies, strict=True) if isinstance(one, Failure)}


def _blocks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _key(judge: AskedJudge, question: Question) -> str:
    return answer_key(judge.identity, judge.text(question), {"kind": type(question).__name__})
