"""Models that write critiques and revisions: a checkpoint on this machine, or a model behind an endpoint."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from alignment.errors import UserError
from alignment.tokenization.chat_format import Messages
from reward_models.judges.answer_store import Answer, AnswerStore, answer_key
from reward_models.judges.api import ApiJudge
from reward_models.judges.asked import AskedEndpoint, Failure, Templates
from reward_models.protocol import transcript

if TYPE_CHECKING:
    from eval.generation.generate import Sampling
    from eval.harness.run_suite import LoadedModel

logger = logging.getLogger(__name__)
TOO_LONG, TRUNCATED, EMPTY, FAILED = "request too long", "answer truncated", "answer empty", "request failed"


@dataclass(frozen=True)
class Written:
    """What a model wrote; without a text, why not.

    Attributes:
        tokens: generated, as far as they are known.
    """

    text: str = ""
    why_not: str = ""
    tokens: int = 0


class Writer(Protocol):
    """A model that answers requests; an answer depends on its request alone.

    Attributes:
        counts: what happened in this part of the rows.
    """

    counts: Counter[str]

    def begin_part(self, number: int) -> None:
        """Begin a part of the rows, with counts of 0."""

    def write(self, requests: Sequence[Messages]) -> list[Written]:
        """An answer to each request, a conversation that ends with the user's turn."""


class LocalWriter:
    """A checkpoint as a writer."""

    def __init__(self, loaded: LoadedModel, sampling: Sampling):
        self.loaded, self.sampling = loaded, sampling
        self.counts: Counter[str] = Counter()

    def begin_part(self, number: int) -> None:
        self.counts.clear()

    def write(self, requests: Sequence[Messages]) -> list[Written]:
        from eval.generation.generate import encode_prompts, generate
        from eval.harness.lm import context_limit

        model, tokenizer = self.loaded
        room = context_limit(model, tokenizer) - self.sampling.max_new_tokens
        prompts = encode_prompts(tokenizer, requests, "chat") if requests else []
        fits = [place for place, prompt in enumerate(prompts) if len(prompt) <= room]
        # The first reply to each request, so that equal requests have equal answers wherever they occur.
        found = generate(model, tokenizer, [prompts[place] for place in fits], self.sampling, 1, [0] * len(fits))
        written = [Written(why_not=TOO_LONG)] * len(requests)
        for place, (reply,) in zip(fits, found, strict=True):
            written[place] = _checked(reply.text, reply.truncated, reply.gen_len)
        return written


class EndpointWriter:
    """A model behind an endpoint as a writer. Answers are stored: a stage that is resumed asks nothing twice."""

    def __init__(self, judge: ApiJudge, store: AnswerStore, max_tokens: int):
        judge.max_tokens = max_tokens
        self.judge, self.store = judge, store
        self._endpoint = AskedEndpoint(judge, judge.model, Templates())
        self.counts: Counter[str] = Counter()
        self._before: set[str] = set()  # requests of this part from before a resume, which are counted once

    def begin_part(self, number: int) -> None:
        self.counts.clear()
        self._before.clear()
        self.store.begin_part(number)

    def write(self, requests: Sequence[Messages]) -> list[Written]:
        texts = [transcript(request) for request in requests]
        keys = [answer_key(self.judge.identity, text, {"kind": "text"}) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if self.store.get(key) is None}
        before = {key for key in keys if self.store.asked_before(key)} - self._before
        self._before |= before
        retried = self.judge.retried
        lost = self._failures(missing)
        lost |= self._failures({key: missing[key] for key, failure in lost.items() if not failure.lasting})  # once more
        lost = {key: failure for key, failure in lost.items() if self.store.get(key) is None}
        self.counts.update(
            {
                "requests": len(missing) + len(before),
                "requests retried": self.judge.retried - retried,
                "requests failed": len(lost),
            }
        )
        if lost:
            logger.warning("%s: %d requests failed: %s", self.judge.model, len(lost), next(iter(lost.values())).why)
        return [self._written(key) for key in keys]

    def _failures(self, requests: Mapping[str, str]) -> dict[str, Failure]:
        """Ask requests by key and store the answers; return the failures. Raises if nobody answers any more."""
        if not requests:
            return {}
        keys = list(requests)

        def keep(place: int, answer: Answer) -> None:
            self.store.put(keys[place], answer)

        replies = self._endpoint.ask_each(self._answer, list(requests.values()), keep)
        return {key: reply for key, reply in zip(keys, replies, strict=True) if isinstance(reply, Failure)}

    def _answer(self, text: str) -> Answer:
        said = self.judge.ask(text)
        return Answer(None if said.cut else 1.0, said=str(said))

    def _written(self, key: str) -> Written:
        answer = self.store.get(key)
        return Written(why_not=FAILED) if answer is None else _checked(answer.said, answer.value is None, 0)


def _checked(text: str, truncated: bool, tokens: int) -> Written:
    why_not = TRUNCATED if truncated else "" if text.strip() else EMPTY
    return Written("" if why_not else text.strip(), why_not, tokens)


def endpoint_of(name: str) -> ApiJudge:
    """The endpoint of a name: `reward_models.api_judge:api?base_url=URL&model=NAME`.

    Raises:
        UserError: the name is something else, or its options are wrong.
    """
    from reward_models.functions import load_function

    found = load_function(name)
    if not isinstance(found, ApiJudge):
        raise UserError(
            "the endpoint of a critic is not an endpoint",
            got=name,
            expected="reward_models.api_judge:api?base_url=URL&model=NAME",
        )
    return found
