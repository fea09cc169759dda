"""What an endpoint says to one prompt: read from its response, and kept until the evaluation is complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from reward_models.judges.answer_store import Answer

CUT = "length"  # the finish_reason of a reply that the length limit ended


@dataclass(frozen=True)
class Said:
    """A reply as the endpoint gave it.

    Attributes:
        text: None if the content is null, as with a content filter, or a model that reasons until the length limit.
        finish_reason: why it ended; None if the server does not say.
        tokens: its length, of which the server counts the token that ends it; None if the server does not say.
        model, fingerprint: the names that the response has for model and system; None without them.
    """

    text: str | None
    finish_reason: str | None = None
    tokens: int | None = None
    model: str | None = None
    fingerprint: str | None = None


def read_said(response: Any) -> Said:
    """Read a completion or chat completion.

    lm-eval reads an empty reply from a response that it does not understand; such a response is an error here.

    Raises:
        ValueError: the response is neither.
    """
    if not isinstance(response, dict):
        raise ValueError(f"a response that is not JSON: {str(response)[:200]!r}")
    try:
        choice = response["choices"][0]
        content = choice["message"]["content"] if "message" in choice else choice["text"]
    except (LookupError, TypeError):
        raise ValueError(f"not a completion: {json.dumps(response)[:200]}") from None
    if content is not None and not isinstance(content, str):
        raise ValueError(f"a reply of type {type(content).__name__}")
    usage = response.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Said(
        None if content is None else content.encode("utf-8", "replace").decode(),  # JSON may hold half of a character
        _text(choice.get("finish_reason")),
        tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None,
        _text(response.get("model")),
        _text(response.get("system_fingerprint")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def as_answer(said: Said) -> Answer:
    """The entry of an `AnswerStore`, which keeps texts."""
    return Answer(None, said=json.dumps(asdict(said)))


def from_answer(answer: Answer) -> Said:
    """The reply in an entry that `as_answer` made."""
    return Said(**json.loads(answer.said))
