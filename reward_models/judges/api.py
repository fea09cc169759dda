"""A judge behind an OpenAI-compatible endpoint: a hosted model, or one that vLLM, SGLang or llama.cpp serves."""

import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alignment.errors import UserError
from reward_models.judges import questions
from reward_models.protocol import Text

logger = logging.getLogger(__name__)

PASSING = (408, 409, 425, 429, 500, 502, 503, 504)  # states that another attempt may find changed
LONGEST_WAIT = 60.0  # seconds, whatever the server asks for


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments):
        return None  # it would take the key to another host


class GaveUp(Exception):
    """Every attempt to get an answer failed."""


class CutAnswer(str):
    """An answer that the length limit cut off."""


def _first_line_if_cut(answer: str) -> str:
    """What may be read of an answer: if it is cut off, its first line, which is complete; a cut `1` may be a 10."""
    if not isinstance(answer, CutAnswer):
        return answer
    first, line_break, _ = answer.lstrip().partition("\n")
    return first if line_break else ""


class ApiJudge:
    """A `Reward` and a `Comparer`: the rating that the model writes, and the reply that it prefers in both positions.

    A request that goes on failing, or an answer that `judge_answers.py` cannot read, gives None. How many do is logged,
    as the metrics NAME/unreadable and NAME/failed too, and `tally` has {asked, failed, unreadable} of all calls.
    If all requests of a call fail, that is an error.

    Args:
        base_url: such as http://localhost:8000/v1; requests go to base_url/chat/completions.
        api_key_env: the environment variable that holds the key. The key is read at each request and shown nowhere.
        timeout: seconds for a request.
        retries: further attempts, the first after `backoff` seconds, each later one after twice as long, or as the
            server's Retry-After says.
        concurrency: requests at a time.
        template, pair_template: what is asked; default: questions.WRITTEN_RATING_PROMPT and judge.WRITTEN_PAIR_PROMPT.
        max_tokens: length of an answer at most; more for models that reason first. An answer that it cuts off is read
            by its first line alone.
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
    ):
        if not base_url.startswith(("http://", "https://")):
            raise UserError("base_url is no address", got=base_url, expected="such as http://localhost:8000/v1")
        self.url, self.model, self.api_key_env = f"{base_url.rstrip('/')}/chat/completions", model, api_key_env
        self.ratings, self.timeout, self.retries, self.backoff = ratings, timeout, retries, backoff
        self.template, self.pair_template = (
            template or questions.WRITTEN_RATING_PROMPT,
            pair_template or questions.WRITTEN_PAIR_PROMPT,
        )
        self.concurrency, self.max_tokens = concurrency, max_tokens
        self.__name__, self.tally = model.split("/")[-1], Counter()
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._key()

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
        """What is preferred with a standing first: 1 for a, 0 for b, 0.5 for a tie, None for no answer."""
        return self._ask_all(questions.pair_prompts(self.pair_template, prompts, a, b), questions.read_preference)

    def _ask_all(self, texts: Sequence[str], read: Callable[[str], float | None]) -> list[float | None]:
        with ThreadPoolExecutor(self.concurrency) as threads:
            answers = list(threads.map(self._answer_or_error, texts))
        failed = [answer for answer in answers if isinstance(answer, GaveUp)]
        if failed and len(failed) == len(answers):
            raise UserError(
                f"no answer from {self.url}", got=str(failed[0]), fix="check base_url, model and that the server runs"
            )
        values = [None if isinstance(answer, GaveUp) else read(_first_line_if_cut(answer)) for answer in answers]
        unread = values.count(None) - len(failed)
        self.tally.update(asked=len(answers), failed=len(failed), unreadable=unread)
        if failed:
            logger.warning("%s: %d of %d requests failed: %s", self.__name__, len(failed), len(answers), failed[0])
        if unread:
            pairs = zip(answers, values, strict=True)
            shown = next(answer for answer, value in pairs if isinstance(answer, str) and value is None)
            cut = sum(isinstance(answer, CutAnswer) for answer in answers)
            logger.warning(
                "%s: %d of %d answers cannot be read and have no opinion (%d answers are cut off at max_tokens=%d); "
                "the first ends with %r",
                *(self.__name__, unread, len(answers), cut, self.max_tokens, shown.strip()[-80:]),
            )
        return values

    def _answer_or_error(self, text: str) -> str | GaveUp:
        try:
            return self.ask(text)
        except GaveUp as error:
            return error

    def ask(self, text: str) -> str:
        """The model's answer to one question.

        Raises:
            GaveUp: after the last attempt.
            UserError: the server refuses the request, so that another attempt is of no use.
        """
        wait = self.backoff
        for attempt in range(self.retries + 1):
            try:
                return self._post(text)
            except urllib.error.HTTPError as error:
                said = self._without_key(f"HTTP {error.code}: {error.read(300).decode(errors='replace')}")
                if error.code not in PASSING:
                    raise UserError(
                        f"{self.url} refuses the request", got=said, fix="check the model's name and the key"
                    ) from None
                asked = error.headers.get("Retry-After", "")
                wait = max(wait, float(asked)) if asked.isdigit() else wait
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                said = self._without_key(f"{type(error).__name__}: {error}")
            if attempt < self.retries:
                time.sleep(min(wait, LONGEST_WAIT))
                wait *= 2
        raise GaveUp(said)

    def _post(self, text: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=self.timeout) as response:
            choice = json.load(response)["choices"][0]
        content = choice["message"]["content"]
        if content is None and choice.get("finish_reason") == "length":
            content = ""  # a model that reasons apart from its answer, and did not come to it
        if not isinstance(content, str):
            raise TypeError(f"an answer of type {type(content).__name__}")
        return CutAnswer(content) if choice.get("finish_reason") == "length" else content

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            name = self.api_key_env
            raise UserError(f"no key in the environment variable {name}", fix=f"export {name}=...")
        return key

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
    concurrency: int = 8,
    max_tokens: int = 64,
) -> ApiJudge:
    """A judge by its endpoint, as ApiJudge says; `template_file` holds what is asked for a rating."""
    template = None if template_file is None else Path(template_file).read_text(encoding="utf-8")
    return ApiJudge(
        base_url,
        model,
        api_key_env,
        (lowest, highest),
        template,
        timeout=timeout,
        retries=retries,
        concurrency=concurrency,
        max_tokens=max_tokens,
    )
