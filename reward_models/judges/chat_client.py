"""The client of an OpenAI-compatible endpoint, and reading its responses."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError
from reward_models.judges.verdict_tokens import Token

if TYPE_CHECKING:
    from openai import OpenAI

CONNECT = 10.0  # seconds until a connection has to be there
KEY = re.compile(r"[!-~]+")  # characters of a header; the client's error for others would show the key


class WrittenAnswer(str):
    """An answer as text.

    Attributes:
        cut: whether the length limit cut it off.
        tokens: its tokens with the likeliest alternatives; empty if the endpoint does not give them.
    """

    cut: bool
    tokens: tuple[Token, ...]

    def __new__(cls, text: str, cut: bool = False, tokens: tuple[Token, ...] = ()) -> WrittenAnswer:
        made = super().__new__(cls, text)
        made.cut, made.tokens = cut, tokens
        return made

    @property
    def readable(self) -> str:
        """The part that may be read: of a cut answer only a complete first line, as a cut `1` may be a 10."""
        if not self.cut:
            return self
        first, line_break, _ = self.lstrip().partition("\n")
        return first if line_break else ""


def answer_of(completion: Any) -> WrittenAnswer:
    """The text of a completion; "" if the length limit ended it while the model was still reasoning.

    Raises:
        ValueError: it has no text. The client passes on whatever JSON the server sends, and other text as it is.
    """
    try:
        choice = completion.choices[0]
        content, cut = choice.message.content, choice.finish_reason == "length"
    except (AttributeError, LookupError, TypeError):
        raise ValueError(f"not a chat completion: {completion}") from None
    if content is None and cut:
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"an answer of type {type(content).__name__}")
    whole = content.encode("utf-8", "replace").decode("utf-8")  # JSON may hold half of a character
    return WrittenAnswer(whole, cut, _tokens(choice))


def _tokens(choice: Any) -> tuple[Token, ...]:
    """The tokens of a choice with the log-probabilities of their alternatives; none if these are incomplete."""
    try:
        return tuple(
            (str(one.token), {str(other.token): float(other.logprob) for other in one.top_logprobs})
            for one in choice.logprobs.content
        )
    except (AttributeError, TypeError, ValueError):
        return ()


def make_client(base_url: str, timeout: float) -> OpenAI:
    """A client that follows no redirect, which would take the key to another host, and leaves retries to its caller."""
    try:
        from openai import DefaultHttpx2Client, OpenAI, Timeout
    except ImportError as error:
        raise UserError(
            "an OpenAI-compatible endpoint needs the package openai",
            got=f"{type(error).__name__}: {error}",
            fix="pip install 'alignment-pipeline[judge]'",
        ) from error
    limits = Timeout(timeout, connect=min(timeout, CONNECT))  # an address where nothing answers is found soon
    http = DefaultHttpx2Client(follow_redirects=False, timeout=limits)
    # Each request carries its own Authorization header; the client only insists on having a key.
    return OpenAI(base_url=base_url, api_key="none", timeout=limits, max_retries=0, http_client=http)


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable; None without a variable.

    Raises:
        UserError: the variable is empty, or holds characters that no key has.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"no key in the environment variable {variable}", fix=f"export {variable}=...")
    if not KEY.fullmatch(key):
        expected = "visible ASCII characters without spaces"
        raise UserError(f"the environment variable {variable} is not a key", expected=expected, fix="correct it")
    return key
