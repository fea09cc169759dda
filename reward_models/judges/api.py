"""A judge behind an OpenAI-compatible endpoint: a hosted model, or a local server (vLLM, SGLang, llama.cpp)."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError
from reward_models.judges import questions
from reward_models.judges.answer_store import Answer
from reward_models.judges.chat_client import WrittenAnswer, answer_of, make_client, read_key
from reward_models.judges.verdict_tokens import Token, graded_preference, graded_rating
from reward_models.protocol import Text

if TYPE_CHECKING:
    from openai import APIStatusError

logger = logging.getLogger(__name__)

TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)  # HTTP statuses worth another attempt
LONGEST_WAIT = 60.0  # seconds, even if the server asks for more
REFUSES_PARAMETER = (400, 422, 501)  # HTTP statuses of a server that does not know a parameter
NOBODY = "ConnectError"  # the client's error if nothing listens at an address
ALTERNATIVES = 5  # likeliest tokens in the place of each token, the most that every server gives
PROBE = "Answer with this line alone:\nVerdict: A"
LONGEST_SAID = 2000  # characters of a written answer that are kept, from its end
LONGEST_EXCERPT = 300  # characters of a response in a message


class GaveUp(Exception):
    """Every attempt to get an answer failed."""


class Refused(UserError):
    """The server refuses a request, so that another attempt is of no use.

    Args:
        status: the HTTP status.
    """

    def __init__(self, url: str, status: int, said: str):
        self.status = status
        super().__init__(f"{url} refuses the request", got=said, fix="check the model's name and the key")


class ApiJudge:
    """A `Reward` and a `Comparer`: the rating that the model writes, and the reply that it prefers.

    A request that keeps failing gives None, and so does an answer that `judge_answers.py` cannot read. Their shares
    are logged as the metrics NAME/failed and NAME/unreadable, and `tally` counts {asked, failed, unreadable} over all
    calls. A call of which every request fails is an error.

    Args:
        base_url: such as http://localhost:8000/v1; requests go to base_url/chat/completions.
        api_key_env: the environment variable that holds the key. Each request reads it anew; it is never shown, and no
            other variable is used for authorization.
        timeout: seconds per request.
        retries: further attempts, the first after `backoff` seconds, each later one after twice as long, or after the
            server's Retry-After if that is longer.
        concurrency: parallel requests.
        template, pair_template: the questions; by default WRITTEN_RATING_PROMPT and WRITTEN_PAIR_PROMPT.
        max_tokens: at most per answer; more for models that reason first. Only the first line of an answer that is cut
            off is read.
        logprobs: ask for the answers' probabilities where a graded answer is wanted (`graded_preference`,
            `graded_rating`). A server that refuses the parameter is asked without it.

    Raises:
        UserError: the package openai or the key is missing, or the address is invalid.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        ratings: tuple[int, int] = (1, 5),
        template: str | None = None,
        pair_template: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 1.0,
        concurrency: int = 8,
        max_tokens: int = 64,
        logprobs: bool = True,
    ):
        if not base_url.startswith(("http://", "https://")):
            raise UserError(
                "base_url is not an HTTP address", got=base_url, expected="such as http://localhost:8000/v1"
            )
        limits = {"concurrency": (concurrency, 1), "max_tokens": (max_tokens, 1), "retries": (retries, 0)}
        for name, (value, least) in limits.items():
            if value < least:
                raise UserError(f"{name} of a judge is too small", got=value, expected=f"at least {least}")
        if not timeout > 0:
            raise UserError("timeout of a judge is too small", got=timeout, expected="more than 0 seconds")
        self.url, self.model, self.api_key_env = base_url.rstrip("/"), model, api_key_env
        self.ratings, self.timeout, self.retries, self.backoff = ratings, timeout, retries, backoff
        self.template = template or questions.WRITTEN_RATING_PROMPT
        self.pair_template = pair_template or questions.WRITTEN_PAIR_PROMPT
        self.concurrency, self.max_tokens, self.logprobs = concurrency, max_tokens, logprobs
        self.__name__ = model.split("/")[-1]
        self.tally: Counter[str] = Counter()
        self.retried = 0  # attempts after the first, over all calls
        self._grades: bool | None = None if logprobs else False  # whether the server takes logprobs, once known
        self._lock = threading.Lock()
        self.stopping = threading.Event()  # once set, no attempt follows and no wait continues
        self._key()
        self._client = make_client(self.url, timeout)

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        texts = questions.rating_prompts(self.template, prompts, completions, *self.ratings)
        before = Counter(self.tally)
        ratings = self._ask_all(texts, lambda answer: questions.read_rating(answer, *self.ratings))
        if "log_metric" in columns and ratings:
            for name in ("unreadable", "failed"):
                columns["log_metric"](f"{self.__name__}/{name}", (self.tally[name] - before[name]) / len(ratings))
        return ratings

    def compare(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text]) -> list[float | None]:
        """The preference with a shown first: 1 for a, 0 for b, 0.5 for a tie, None for no answer."""
        return self._ask_all(questions.pair_prompts(self.pair_template, prompts, a, b), questions.read_preference)

    def _ask_all(self, texts: Sequence[str], read: Callable[[str], float | None]) -> list[float | None]:
        with ThreadPoolExecutor(self.concurrency) as threads:
            answers = list(threads.map(self._answer_or_error, texts))
        failed = [answer for answer in answers if isinstance(answer, GaveUp)]
        if failed and len(failed) == len(answers):
            raise UserError(
                f"no answer from {self.url}", got=str(failed[0]), fix="check base_url, model and that the server runs"
            )
        values = [None if isinstance(answer, GaveUp) else read(answer.readable) for answer in answers]
        unread = values.count(None) - len(failed)
        self.tally.update(asked=len(answers), failed=len(failed), unreadable=unread)
        if failed:
            logger.warning("%s: %d of %d requests failed: %s", self.__name__, len(failed), len(answers), failed[0])
        if unread:
            pairs = zip(answers, values, strict=True)
            shown = next(answer for answer, value in pairs if isinstance(answer, str) and value is None)
            cut = sum(isinstance(answer, WrittenAnswer) and answer.cut for answer in answers)
            logger.warning(
                "%s: %d of %d answers cannot be read and have no opinion (%d answers are cut off at max_tokens=%d); "
                "the first ends with %r",
                *(self.__name__, unread, len(answers), cut, self.max_tokens, shown.strip()[-80:]),
            )
        return values

    def _answer_or_error(self, text: str) -> WrittenAnswer | GaveUp:
        try:
            return self.ask(text)
        except GaveUp as error:
            return error

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the judge's answers in a store: all that changes them, and no secret."""
        url = re.sub(r"//[^/@]*@", "//", self.url)
        return {"url": url, "model": self.model, "max_tokens": self.max_tokens, "logprobs": self.logprobs}

    def graded_preference(self, text: str) -> Answer:
        """The answer to a question about two replies, as the probability that the first is better if that is known.

        Raises:
            GaveUp: after the last attempt.
            Refused: as for `ask`.
        """
        return self._graded(text, questions.read_preference, graded_preference)

    def graded_rating(self, text: str) -> Answer:
        """The answer to a question for a rating, as the expected rating if the probabilities are known."""
        lowest, highest = self.ratings
        return self._graded(
            text,
            lambda said: questions.read_rating(said, lowest, highest),
            lambda tokens, value: graded_rating(tokens, value, lowest, highest),
        )

    def _graded(
        self,
        text: str,
        read: Callable[[str], float | None],
        grade: Callable[[tuple[Token, ...], float], float | None],
    ) -> Answer:
        said = self.ask(text, graded=True)
        value = read(said.readable)
        graded = None if value is None or said.cut else grade(said.tokens, value)
        return Answer(value if graded is None else graded, graded is not None, self._without_key(said)[-LONGEST_SAID:])

    def require_ready(self) -> None:
        """Ask one short question, so that a wrong address, model or key is found before anything runs.

        The request also finds out whether the server takes `logprobs`. (A list of models, as /models gives it, would
        not show whether the key may use the model, and not every server has it.)

        Raises:
            UserError: nothing listens at the address, the server refuses the request, or every attempt failed.
        """
        try:
            self.ask(PROBE, graded=True, wait_for_server=False)
        except GaveUp as error:
            raise UserError(
                f"no answer from {self.url}", got=str(error), fix="check base_url, model and that the server runs"
            ) from None

    def ask(self, text: str, graded: bool = False, wait_for_server: bool = True) -> WrittenAnswer:
        """The model's answer to a question.

        Args:
            graded: with the probabilities of its tokens, if the server gives them.
            wait_for_server: try again if nothing listens at the address.

        Raises:
            GaveUp: after the last attempt.
            Refused: the server refuses the request, so that another attempt is of no use.
        """
        import openai

        # The client's own retries have a fixed first wait, leave out status 425, and do not repeat a request whose
        # answer is not JSON.
        wait = self.backoff
        for attempt in range(self.retries + 1):
            if attempt:
                with self._lock:
                    self.retried += 1
            try:
                return self._answer(text, graded)
            except openai.APIStatusError as error:
                said = self._said(error)
                if error.status_code not in TRANSIENT:
                    raise Refused(self.url, error.status_code, said) from None
                asked = error.response.headers.get("Retry-After", "")
                wait = max(wait, float(asked)) if asked.isdecimal() else wait  # "\u00b2" is a digit, and no number
            except (openai.APIError, ValueError) as error:
                cause = error.__cause__ or error
                said = self._without_key(f"{type(cause).__name__}: {cause}")[:LONGEST_EXCERPT]
                if type(cause).__name__ == NOBODY and not wait_for_server:
                    break
            if attempt < self.retries:
                self._wait(min(wait, LONGEST_WAIT))
                wait *= 2
            if self.stopping.is_set():
                break
        raise GaveUp(said)

    def _wait(self, seconds: float) -> None:
        self.stopping.wait(seconds)

    def _answer(self, text: str, graded: bool) -> WrittenAnswer:
        """The answer to one request; without logprobs if the server refuses the request only with them."""
        import openai

        graded = graded and self._grades is not False
        try:
            answer = self._request(text, graded)
        except openai.APIStatusError as error:
            if not graded or self._grades or error.status_code not in REFUSES_PARAMETER:
                raise
            answer = self._request(text, graded=False)
            with self._lock:
                first, self._grades = self._grades is None, False
            if first:
                logger.warning(
                    "%s: the server takes no logprobs, so its verdicts are 1, 0.5 or 0: %s",
                    *(self.__name__, self._said(error)),
                )
            return answer
        if graded:
            self._grades = True
        return answer

    def _request(self, text: str, graded: bool) -> WrittenAnswer:
        from openai import omit

        key = self._key()
        # The client reads OPENAI_* variables; the endpoint gets this key or none, and no account.
        account = {"OpenAI-Organization": omit, "OpenAI-Project": omit}
        completion = self._client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=self.max_tokens,
            logprobs=True if graded else omit,
            top_logprobs=ALTERNATIVES if graded else omit,
            extra_headers={"Authorization": f"Bearer {key}" if key else omit, **account},
        )
        return answer_of(completion)

    def _said(self, error: APIStatusError) -> str:
        return f"HTTP {error.status_code}: {self._without_key(error.response.text)[:LONGEST_EXCERPT]}"

    def _key(self) -> str | None:
        return read_key(self.api_key_env)

    def _without_key(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "[key]") if key else text


def api(
    base_url: str,
    model: str,
    api_key_env: str | None = None,
    lowest: int = 1,
    highest: int = 5,
    template_file: str | None = None,
    timeout: float = 60.0,
    retries: int = 4,
    backoff: float = 1.0,
    concurrency: int = 8,
    max_tokens: int = 64,
    logprobs: bool = True,
) -> ApiJudge:
    """A judge by its endpoint, see `ApiJudge`.

    Args:
        lowest, highest: the scale of the ratings.
        template_file: a file with the question for a rating.
    """
    questions.require_scale(lowest, highest)
    template = questions.read_template(template_file)
    return ApiJudge(
        base_url,
        model,
        api_key_env,
        (lowest, highest),
        template,
        timeout=timeout,
        retries=retries,
        backoff=backoff,
        concurrency=concurrency,
        max_tokens=max_tokens,
        logprobs=logprobs,
    )
