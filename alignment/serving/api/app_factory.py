"""The server's application: OpenAI's routes on engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, Response, StreamingResponse

from alignment.serving.api.answers_in_progress import Answer, Offered, read_prompts
from alignment.serving.api.api_errors import ApiError
from alignment.serving.api.gate import Gate, Guard
from alignment.serving.api.metrics_of_server import ServerMetrics
from alignment.serving.api.prompts import PromptReader
from alignment.serving.api.request_fields import ChatRequest, CompletionRequest, read_body
from alignment.serving.api.shapes import ChatShape, CompletionShape, ScoredToken, Shape
from alignment.serving.batching.engine import Engine

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def make_app(engines: Sequence[Engine], guard: Guard | None = None) -> FastAPI:
    """Return the application for engines that have been started.

    Further routes can be added with `app.include_router`; `app.state.offered` has the models by name.

    Args:
        engines: one per model.
        guard: who may use the server; by default this machine, without a key.
    """
    guard = guard or Guard()
    offered = {one.name: Offered(one, PromptReader(one.served, one.context, one.vocabulary)) for one in engines}
    metrics = ServerMetrics(engines)
    # No pages of documentation: they load their scripts from elsewhere.
    app = FastAPI(title="align serve", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.offered, app.state.metrics = offered, metrics
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_api_route("/health", partial(health, engines), methods=["GET"])
    app.add_api_route("/metrics", partial(_metrics, metrics), methods=["GET"])
    app.add_api_route("/v1/models", partial(models, offered), methods=["GET"])
    app.add_api_route("/v1/models/{name}", partial(model_named, offered), methods=["GET"])

    async def chat(request: Request) -> Response:
        return await answered(request, read_body(ChatRequest, await request.body()), offered, metrics, ChatShape())

    async def complete(request: Request) -> Response:
        body = read_body(CompletionRequest, await request.body())
        return await answered(request, body, offered, metrics, CompletionShape())

    app.add_api_route("/v1/chat/completions", chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", complete, methods=["POST"], response_model=None)
    paths = ["/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions"]
    # The last one added is the first that a request meets.
    app.add_middleware(Gate, guard=guard, metrics=metrics, paths=paths)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(guard.hosts), www_redirect=False)
    return app


def health(engines: Sequence[Engine]) -> JSONResponse:
    """Respond 200 if all engines run, otherwise 503, with the state of each."""
    alive = {engine.name: "up" if engine.is_alive() else "down" for engine in engines}
    healthy = "down" not in alive.values()
    return JSONResponse({"status": "ok" if healthy else "down", "models": alive}, 200 if healthy else 503)


def models(offered: dict[str, Offered]) -> dict[str, Any]:
    """Return the list of models."""
    return {"object": "list", "data": [_model(one.engine) for one in offered.values()]}


def model_named(offered: dict[str, Offered], name: str) -> dict[str, Any]:
    """Return a model's entry."""
    return _model(offered_named(offered, name).engine)


def _model(engine: Engine) -> dict[str, Any]:
    served = engine.served
    entry = {"id": served.name, "object": "model", "created": 0, "owned_by": "align"}
    return entry | {"parent": served.base, "digest": served.digest, "max_model_len": engine.context}


def _metrics(metrics: ServerMetrics) -> Response:
    return Response(metrics.text(), media_type=PROMETHEUS)


def offered_named(offered: dict[str, Offered], name: str) -> Offered:
    """Return a served model.

    Raises:
        ApiError: no model is served under this name.
    """
    if name not in offered:
        message = f"there is no model {name[:100]!r}; served: {', '.join(offered)}"
        raise ApiError(404, message, param="model", code="model_not_found")
    return offered[name]


async def answered(
    request: Request,
    body: ChatRequest | CompletionRequest,
    offered: dict[str, Offered],
    metrics: ServerMetrics,
    shape: Shape,
) -> Response:
    """Respond to a request with its replies, streamed or not."""
    model = offered_named(offered, body.model)
    answer = Answer(model, body, await read_prompts(model.reader, body), metrics, shape)
    if body.stream:
        return AnswerStream(answer, body.includes_usage())
    try:
        return JSONResponse(await _whole_or_left(request, answer))
    finally:
        answer.close()


async def _whole_or_left(request: Request, answer: Answer) -> dict[str, Any]:
    """Return the response, unless the client leaves before: nobody would read it."""
    whole = asyncio.create_task(_whole(answer))
    left = asyncio.create_task(_until_left(request))
    try:
        await asyncio.wait({whole, left}, return_when=asyncio.FIRST_COMPLETED)
        if not whole.done():
            raise ApiError(499, "the client has left")
        return whole.result()
    finally:
        for task in (whole, left):
            task.cancel()


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(answer: Answer) -> dict[str, Any]:
    texts = ["" for _ in answer.texts]
    scored: list[list[ScoredToken]] = [[] for _ in answer.texts]
    async for piece in answer.pieces():
        texts[piece.reply] += piece.text
        scored[piece.reply] += piece.scored or []
    choices = [
        answer.shape.choice(index, text, answer.texts[index].reason, scored[index] if answer.scores else None)
        for index, text in enumerate(texts)
    ]
    return answer.head.part(answer.shape.whole, choices, answer.usage())


class AnswerStream(StreamingResponse):
    """Replies as server-sent events. However the response ends, what still runs is stopped."""

    def __init__(self, answer: Answer, includes_usage: bool):
        self.answer = answer
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events(answer, includes_usage), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answer.close()


async def events(answer: Answer, includes_usage: bool) -> AsyncIterator[str]:
    """Yield the events of a streamed response."""
    shape, part = answer.shape, partial(answer.head.part, answer.shape.streamed)
    for index in range(len(answer.texts)):
        if (opening := shape.opening(index)) is not None:
            yield _event(part([opening], None))
    try:
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                choice = shape.delta(piece.reply, piece.text, piece.reason, piece.scored)
                yield _event(part([choice], None))
    except ApiError as error:
        yield _event(error.body())
        return
    if includes_usage:
        yield _event(part([], answer.usage()))
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(error.body(), error.status, error.headers)


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    wrong = ApiError(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}")
    return JSONResponse(wrong.body(), wrong.status, dict(error.headers or {}))
