"""How likely each token of a reply is under a model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from anyio import to_thread

from alignment.serving.api.answers_in_progress import Offered
from alignment.serving.api.api_errors import ApiError
from alignment.serving.web.web_requests import prompt_ids


async def reply_scores(offered: Offered, turns: list[dict[str, str]], reply: str, turn: asyncio.Lock) -> dict[str, Any]:
    """Score a reply under a model.

    The reply's text is tokenized by the model's own tokenizer, so that any model can score any model's reply.

    Args:
        turn: held during the forward pass: one at a time, so that streams continue.

    Returns:
        {model, tokens: [{text, logprob}], count, total}; the texts together are the reply, and tokens that only
        together are a character are one entry. `count` and `total`: tokens, and the sum of their log-probabilities.

    Raises:
        ApiError: the conversation with the reply does not fit the context.
    """
    engine, prompt = offered.engine, await prompt_ids(offered, turns)
    ids, ends = await to_thread.run_sync(offered.reader.reply, reply)
    if len(prompt) + len(ids) > engine.context:
        message = f"the context of {engine.name} has {engine.context} tokens, the conversation {len(prompt) + len(ids)}"
        raise ApiError(400, message, param="reply", code="context_length_exceeded")
    log_probs: list[float] = []
    if ids:  # a tokenizer may leave out white space
        async with turn:
            log_probs = await to_thread.run_sync(engine.log_probs, prompt, ids)
    tokens = spans(reply, ends, log_probs)
    return {"model": engine.name, "tokens": tokens, "count": len(ids), "total": sum(log_probs)}


def spans(reply: str, ends: Sequence[int], log_probs: Sequence[float]) -> list[dict[str, Any]]:
    """Return the parts of a text that tokens add, with their log-probabilities.

    Args:
        ends: (n,) position in the text where each token ends.
        log_probs: (n,).
    """
    found: list[dict[str, Any]] = []
    shown = 0
    for end, log_prob in zip(ends, log_probs, strict=True):
        if end > shown:
            found.append({"text": reply[shown:end], "logprob": log_prob})
            shown = end
        elif found:
            found[-1]["logprob"] += log_prob
        else:
            found.append({"text": "", "logprob": log_prob})
    if found:
        found[-1]["text"] += reply[shown:]
    return found
