"""A request from its body to the pieces of its replies."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from anyio import to_thread

from alignment.keyed_seeds import keyed_seed
from alignment.serving.api.api_errors import ApiError
from alignment.serving.api.metrics_of_server import ServerMetrics
from alignment.serving.api.prompts import PromptReader
from alignment.serving.api.reply_text import ReplyText
from alignment.serving.api.request_fields import MOST_REPLIES, ChatRequest, CompletionRequest
from alignment.serving.api.shapes import Head, ScoredToken, Shape, scored_token, usage
from alignment.serving.batching.engine import Engine
from alignment.serving.batching.keyed_sampling import NOT_SCORED, Sampling
from alignment.serving.batching.pending_replies import EngineDown, QueueFull, Replies, Request, Step

RETRY_AFTER = {"Retry-After": "1"}  # seconds
LOOKS_AFTER = 5.0  # seconds without a token after which a request looks whether its engine still runs


@dataclass(frozen=True)
class Offered:
    """A model that clients can name: its engine, and what makes its prompts."""

    engine: Engine
    reader: PromptReader


@dataclass(frozen=True)
class Piece:
    """A part of a reply; `reason` says why the reply ended with it, if it did."""

    reply: int
    text: str
    reason: str | None
    scored: list[ScoredToken] | None


class Answer:
    """The replies to a request, generated since this was made. To be closed.

    Args:
        offered: the model.
        body: the request.
        prompts: token ids of its prompts, from `read_prompts`.

    Raises:
        ApiError: the context is too short, or the queue is full, or the engine is down.
    """

    def __init__(
        self,
        offered: Offered,
        body: ChatRequest | CompletionRequest,
        prompts: list[list[int]],
        metrics: ServerMetrics,
        shape: Shape,
    ):
        reader, engine = offered.reader, offered.engine
        self.reader, self.engine, self.metrics, self.shape = reader, engine, metrics, shape
        self.started = time.perf_counter()
        seed = secrets.randbelow(2**53) if body.seed is None else body.seed
        digest = engine.served.digest
        self.head = Head(shape.prefix + uuid.uuid4().hex, engine.name, seed, digest[:12] if digest else None)
        self.scores, self.prompt_tokens = body.scored() is not None, sum(map(len, prompts))
        count, limit = body.n or 1, reader.room(prompts, body.limit())
        if len(prompts) * count > MOST_REPLIES:
            raise ApiError(400, f"{len(prompts)} prompts with n={count}: at most {MOST_REPLIES} replies", param="n")
        ends = reader.turn_ends if isinstance(body, ChatRequest) else reader.ends
        repeated = [prompt for prompt in prompts for _ in range(count)]
        samplings = [sampling_of(body, seed, index) for index in range(len(repeated))]
        self.texts = [ReplyText(reader.backend, body.stop, ends, limit) for _ in repeated]
        self.first_token: list[float | None] = [None] * len(repeated)
        self.replies: Replies = self._submitted(Request(repeated, samplings, limit, ends))
        metrics.prompt_tokens.labels(engine.name).inc(self.prompt_tokens)

    def _submitted(self, request: Request) -> Replies:
        try:
            return self.engine.submit(request)
        except QueueFull as error:
            message = f"too many requests at once: {error}"
            raise ApiError(429, message, code="queue_full", headers=RETRY_AFTER) from error
        except EngineDown as error:
            raise ApiError(503, str(error), code="engine_down") from error

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Yield the parts of all replies as they come.

        Raises:
            ApiError: the engine gave up.
        """
        while any(text.reason is None for text in self.texts):
            step = await self._next_step()
            text = self.texts[step.reply]
            if text.reason is not None:
                continue
            if step.error is not None:
                raise ApiError(503, f"the engine gave up: {step.error.splitlines()[0]}", code="engine_failed")
            self._count(step)
            before = len(text.tokens)
            piece = text.add(step.tokens, step.finished)
            scored = self._scored(step, before, text) if self.scores else None
            if text.reason is not None:
                self.replies.end(step.reply)
                self._count_reply(step.reply)
            if piece or scored or text.reason is not None:
                yield Piece(step.reply, piece, text.reason, scored)

    async def _next_step(self) -> Step:
        """Wait for tokens; an engine that dies may have missed a request that came just then."""
        while True:
            try:
                return await asyncio.wait_for(self.replies.steps.get(), LOOKS_AFTER)
            except TimeoutError:
                if not self.engine.is_alive() and self.replies.steps.empty():
                    raise ApiError(503, f"the engine of {self.engine.name} has stopped", code="engine_down") from None

    def _scored(self, step: Step, before: int, text: ReplyText) -> list[ScoredToken]:
        """Return the scored tokens of a step that are part of the reply."""
        both = list(zip(step.tokens, step.scored, strict=True))[: max(0, text.shown - before)]
        return [scored_token(self.reader.backend, token, scored) for token, scored in both]

    def _count(self, step: Step) -> None:
        if step.tokens and self.first_token[step.reply] is None:
            self.first_token[step.reply] = time.perf_counter()
            self.metrics.first_token.labels(self.engine.name).observe(time.perf_counter() - self.started)
        self.metrics.tokens.labels(self.engine.name).inc(len(step.tokens))

    def _count_reply(self, index: int) -> None:
        first, tokens = self.first_token[index], len(self.texts[index].tokens)
        reason = self.texts[index].reason or ""
        self.metrics.replies.labels(self.engine.name, reason).inc()
        if first is not None and tokens > 1:
            rate = (tokens - 1) / max(1e-9, time.perf_counter() - first)
            self.metrics.rate.labels(self.engine.name).observe(rate)

    def usage(self) -> dict[str, int]:
        """Return the counts of tokens so far."""
        return usage(self.prompt_tokens, sum(len(text.tokens) for text in self.texts))

    def close(self) -> None:
        """Stop what still runs, and free its blocks."""
        self.replies.close()


def sampling_of(body: ChatRequest | CompletionRequest, seed: int, index: int) -> Sampling:
    """Return the settings of a reply; the first one has the request's own seed, further ones seeds derived from it."""
    scored = body.scored()
    return Sampling(
        temperature=float(1 if body.temperature is None else body.temperature),
        top_p=float(1 if body.top_p is None else body.top_p),
        top_k=max(0, body.top_k or 0),
        seed=seed if index == 0 else keyed_seed("further reply", seed, index),
        top_logprobs=NOT_SCORED if scored is None else scored,
    )


async def read_prompts(reader: PromptReader, body: ChatRequest | CompletionRequest) -> list[list[int]]:
    """Return the token ids of a request's prompts, made in another thread: long texts take their time.

    Raises:
        ApiError: the model cannot be given the prompt.
    """
    if isinstance(body, ChatRequest):
        messages = [message.as_turn() for message in body.messages]
        return [await to_thread.run_sync(reader.conversation, messages)]
    return [await to_thread.run_sync(reader.plain, prompt) for prompt in body.prompts()]
