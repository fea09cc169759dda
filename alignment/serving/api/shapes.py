"""Responses in the form of OpenAI's API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from alignment.serving.batching.keyed_sampling import Scored

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Json = dict[str, Any]


@dataclass(frozen=True)
class ScoredToken:
    """A token of a reply with its log-probability, and the most likely tokens with theirs."""

    text: str
    logprob: float
    top: list[tuple[str, float]]


def scored_token(backend: Tokenizer, token: int, scored: Scored) -> ScoredToken:
    """Return a token's text and log-probabilities."""
    top = [(token_text(backend, one), logprob) for one, logprob in scored.top]
    return ScoredToken(token_text(backend, token), scored.logprob, top)


def token_text(backend: Tokenizer, token: int) -> str:
    """Return the text of a token by itself; a part of a character is a replacement character."""
    return backend.decode([token], skip_special_tokens=False)


@dataclass(frozen=True)
class Head:
    """What all parts of a response begin with.

    Attributes:
        seed: the request's seed, or the one that was drawn for it.
        fingerprint: the beginning of the model's digest.
    """

    id: str
    model: str
    seed: int
    fingerprint: str | None
    created: int = field(default_factory=lambda: int(time.time()))

    def part(self, kind: str, choices: list[Json], usage: Json | None) -> Json:
        """Return a response, or a part of a streamed one."""
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {
            "system_fingerprint": self.fingerprint,
            "seed": self.seed,
            "choices": choices,
            "usage": usage,
        }


class Shape(Protocol):
    """The form of the replies to a kind of request.

    Attributes:
        prefix: beginning of a response's id.
        whole, streamed: what `object` is in a response, and in a part of a stream.
    """

    prefix: str
    whole: str
    streamed: str

    def opening(self, index: int) -> Json | None:
        """Return the first choice of a streamed reply, if there is one before any text."""

    def choice(self, index: int, text: str, reason: str | None, scored: Sequence[ScoredToken] | None) -> Json:
        """Return a complete reply."""

    def delta(self, index: int, text: str, reason: str | None, scored: Sequence[ScoredToken] | None) -> Json:
        """Return a part of a reply."""


class ChatShape:
    """Replies in a conversation."""

    prefix, whole, streamed = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> Json | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def choice(self, index: int, text: str, reason: str | None, scored: Sequence[ScoredToken] | None) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": _contents(scored), "finish_reason": reason}

    def delta(self, index: int, text: str, reason: str | None, scored: Sequence[ScoredToken] | None) -> Json:
        delta = {"content": text} if text or reason is None else {}
        return {"index": index, "delta": delta, "logprobs": _contents(scored), "finish_reason": reason}


class CompletionShape:
    """Replies to plain prompts."""

    prefix, whole, streamed = "cmpl-", "text_completion", "text_completion"

    def __init__(self) -> None:
        self.offsets: dict[int, int] = {}

    def opening(self, index: int) -> Json | None:
        return None

    def choice(self, index: int, text: str, reason: str | None, scored: Sequence[ScoredToken] | None) -> Json:
        return {"index": index, "text": text, "logprobs": self._columns(index, scored), "finish_reason": reason}

    delta = choice

    def _columns(self, index: int, scored: Sequence[ScoredToken] | None) -> Json | None:
        if scored is None:
            return None
        offsets = []
        for one in scored:
            offsets.append(self.offsets.get(index, 0))
            self.offsets[index] = offsets[-1] + len(one.text)
        return {
            "tokens": [one.text for one in scored],
            "token_logprobs": [one.logprob for one in scored],
            # By text: of several tokens with one text, the most likely.
            "top_logprobs": [dict(reversed(one.top)) for one in scored],
            "text_offset": offsets,
        }


def _contents(scored: Sequence[ScoredToken] | None) -> Json | None:
    if scored is None:
        return None
    return {
        "content": [
            _entry(one.text, one.logprob) | {"top_logprobs": [_entry(text, logprob) for text, logprob in one.top]}
            for one in scored
        ],
        "refusal": None,
    }


def _entry(text: str, logprob: float) -> Json:
    whole = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": whole}


def usage(prompt: int, completion: int) -> Json:
    """Return the counts of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
