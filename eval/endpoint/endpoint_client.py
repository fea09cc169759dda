"""Requests to an OpenAI-compatible endpoint: repeated if that may help, refused with what the server says otherwise."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from alignment.errors import UserError
from eval.endpoint.address import Endpoint
from reward_models.judges.api import LONGEST_EXCERPT, LONGEST_WAIT, NOBODY, TRANSIENT, GaveUp
from reward_models.judges.chat_client import make_client

if TYPE_CHECKING:
    from openai import APIStatusError

logger = logging.getLogger(__name__)
TIMEOUT = 300.0  # seconds per request; lm-eval's
RETRIES, BACKOFF = 5, 1.0  # further attempts, and seconds before the first, which double
NOT_THERE = (NOBODY, "ConnectTimeout")  # the client's errors if nothing answers at an address
SILENT = 2  # attempts that time out, at most: each costs the whole timeout
REFUSES_LENGTH = (400, 413, 422)  # HTTP statuses of a prompt that is too long
# OpenAI's and llama.cpp's codes, and the words of vLLM, SGLang, TGI and transformers.
TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|context (length|size|window)"
    r"|(prompt|input) is too long|longer than the (model|maximum)",
    re.IGNORECASE,
)
Read = TypeVar("Read")


class EndpointRefuses(UserError):
    """The server refuses a request, so that another attempt is of no use.

    Args:
        status: the HTTP status.
        said: what the server says.
        known: names of the models that the server has; empty if it does not list them.
        what: what it refuses.
    """

    def __init__(
        self, endpoint: Endpoint, status: int, said: str, known: Sequence[str] = (), what: str = "the request"
    ):
        self.status, self.said = status, said
        expected, fix = None, "change what the server names, in the suite or in the server's settings"
        if 300 <= status < 400:
            fix = "give the address that it redirects to as --endpoint: a redirect is not followed, nor given the key"
        if status in (401, 403):
            fix = "name the environment variable that holds the key: --api_key_env NAME"
            if endpoint.api_key_env:
                fix = f"check the key in the environment variable {endpoint.api_key_env}"
        elif known and endpoint.model not in known:
            expected, fix = f"a model of the server: {', '.join(known)}", f"--model {known[0]}"
        elif status in (404, 405):
            fix = "check --model, and that --endpoint is the address that ends with /v1"
        super().__init__(f"{endpoint.name} refuses {what}.", got=said, expected=expected, fix=fix)


class PromptTooLong(Exception):
    """The server refuses a prompt as too long for the model's context.

    Args:
        said: what the server says.
    """

    def __init__(self, said: str):
        self.said = said
        super().__init__(said)


class EndpointClient:
    """A client of an endpoint, which threads may share.

    Args:
        timeout: seconds that the server may be silent in a request.
        retries: further attempts after an outage, a full server, or a response that is not a completion.
        backoff: seconds before the second attempt; each later wait is twice as long, or the server's Retry-After.

    Attributes:
        stopping: once set, no attempt follows and no wait continues.
        retried: attempts after the first, over all requests.
    """

    def __init__(
        self, endpoint: Endpoint, *, timeout: float = TIMEOUT, retries: int = RETRIES, backoff: float = BACKOFF
    ):
        self.endpoint, self.retries, self.backoff = endpoint, retries, backoff
        self.stopping, self.retried, self._lock = threading.Event(), 0, threading.Lock()
        self._warned = False
        self._client = make_client(endpoint.url, timeout)

    def ask(self, route: str, payload: dict, read: Callable[[Any], Read], *, wait_for_server: bool = True) -> Read:
        """Send a request until it succeeds, and return what `read` makes of the response.

        Args:
            route: below the endpoint's URL, such as /chat/completions.
            payload: the request's JSON.
            read: raises a ValueError for a response that is not a completion.
            wait_for_server: try again if nothing listens at the address.

        Raises:
            GaveUp: every attempt failed.
            PromptTooLong: the prompt does not fit into the model's context.
            EndpointRefuses: the server refuses the request for another reason.
        """
        import openai

        wait, said, silent, attempts = self.backoff, "stopped", 0, 0
        for attempt in range(self.retries + 1):
            if self.stopping.is_set():
                break
            if attempt:
                with self._lock:
                    self.retried += 1
            attempts += 1
            try:
                return read(self._post(route, payload))
            except openai.APIStatusError as error:
                said = self._said(error)
                if error.status_code in REFUSES_LENGTH and TOO_LONG.search(error.response.text):
                    raise PromptTooLong(said) from None
                if error.status_code not in TRANSIENT:
                    raise EndpointRefuses(self.endpoint, error.status_code, said) from None
                asked = error.response.headers.get("Retry-After", "")
                wait = max(wait, float(asked)) if asked.isdecimal() else wait
            except (openai.APIError, ValueError) as error:
                cause = error.__cause__ or error
                said = self.endpoint.without_key(f"{type(cause).__name__}: {cause}")[:LONGEST_EXCERPT]
                silent += isinstance(error, openai.APITimeoutError)
                if silent == SILENT or (type(cause).__name__ in NOT_THERE and not wait_for_server):
                    break
            if attempt < self.retries:
                self._warn(said)
                self.stopping.wait(min(wait, LONGEST_WAIT))
                wait *= 2
        raise GaveUp(f"{said} ({attempts} attempt{'s' if attempts != 1 else ''})")

    def _warn(self, said: str) -> None:
        """Say once that requests are repeated, and why: an outage should not look like a slow model."""
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            logger.warning("%s: requests are repeated: %s", self.endpoint.name, said)

    def models(self) -> list[str]:
        """Names of the models that the server lists; empty if it does not list any."""
        import openai

        try:
            listed = self._client.get("/models", cast_to=object, options={"headers": self._headers()})
        except (openai.APIError, ValueError):
            return []
        entries = listed.get("data") if isinstance(listed, dict) else None
        found = [entry.get("id") for entry in entries or [] if isinstance(entry, dict)]
        return [name for name in found if isinstance(name, str)]

    def _post(self, route: str, payload: dict) -> Any:
        """The response's JSON, or its text if that is not JSON."""
        return self._client.post(route, cast_to=object, body=payload, options={"headers": self._headers()})

    def _headers(self) -> dict[str, Any]:
        """The endpoint's key or none: the client would send OPENAI_API_KEY and the account of other variables."""
        from openai import omit

        key = self.endpoint.key()
        account = {"OpenAI-Organization": omit, "OpenAI-Project": omit}
        return {"Authorization": f"Bearer {key}" if key else omit, **account}

    def _said(self, error: APIStatusError) -> str:
        elsewhere = error.response.headers.get("Location")
        text = f"redirects to {elsewhere}" if elsewhere else error.response.text
        return f"HTTP {error.status_code}: {self.endpoint.without_key(text)[:LONGEST_EXCERPT]}"
