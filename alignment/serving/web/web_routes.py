"""The routes of the pages on the server's application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from alignment.errors import UserError
from alignment.serving.api.answers_in_progress import Offered
from alignment.serving.api.api_errors import ApiError
from alignment.serving.api.app_factory import offered_named
from alignment.serving.api.metrics_of_server import ServerMetrics
from alignment.serving.api.request_fields import read_body
from alignment.serving.web.blind_comparisons import Comparison, Comparisons, without_names
from alignment.serving.web.page_files import page_files
from alignment.serving.web.reply_events import Ended, ReplyEvents
from alignment.serving.web.reply_scores import reply_scores
from alignment.serving.web.votes_file import VotesFile
from alignment.serving.web.web_requests import (
    ComparisonRequest,
    ReplyRequest,
    ScoreRequest,
    Settings,
    VoteRequest,
    begin,
    fitted,
)

logger = logging.getLogger(__name__)


@dataclass
class Web:
    """What the pages' routes share.

    Attributes:
        offered: the served models by name.
        votes: the file that votes are appended to.
        defaults: the settings that the page begins with.
        items: returns what the page of items shows, see `evaluated_items`; called once, when it is first asked for.
    """

    offered: dict[str, Offered]
    metrics: ServerMetrics
    votes: VotesFile
    defaults: Settings = field(default_factory=Settings)
    comparisons: Comparisons = field(default_factory=Comparisons)
    items: Callable[[], dict[str, Any] | None] = lambda: None
    scoring: asyncio.Lock = field(default_factory=asyncio.Lock)
    comparing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def settings(self) -> JSONResponse:
        """Return the models and the settings to begin with."""
        models = [
            {
                "name": one.engine.name,
                "digest": one.engine.served.digest,
                "context": one.engine.context,
                "has_template": bool(one.reader.tokenizer.chat_template),
            }
            for one in self.offered.values()
        ]
        return private({"models": models, "defaults": self.defaults.model_dump(), "votes": self.votes.path.name})

    async def reply(self, request: Request) -> Response:
        """Stream a named model's reply."""
        body = read_body(ReplyRequest, await request.body())
        answer = await begin(offered_named(self.offered, body.model), body.turns(), body, self.metrics)
        return ReplyEvents(answer)

    async def score(self, request: Request) -> JSONResponse:
        """Return the log-probabilities of a reply under a named model."""
        body = read_body(ScoreRequest, await request.body())
        offered = offered_named(self.offered, body.model)
        return private(await reply_scores(offered, body.turns(), body.reply, self.scoring))

    async def compare(self, request: Request) -> JSONResponse:
        """Begin a blind comparison; the response is its id.

        Every model that could be drawn must have room for the conversation: a refusal says nothing about the two.
        """
        body = read_body(ComparisonRequest, await request.body())
        models = [offered_named(self.offered, name) for name in body.models]
        if len(set(body.models)) < len(body.models):
            raise ApiError(400, "a model is named twice", param="models")
        for one in models:
            await fitted(one, body.turns(), body)
        settings = Settings.model_validate(body.model_dump(exclude={"messages", "models"}))
        return private({"id": self.comparisons.open(models, body.turns(), settings).id})

    async def side(self, id: str, side: str) -> Response:
        """Stream one side's reply."""
        comparison = self.comparisons.named(id)
        found = comparison.side(side)
        found.running = True

        def finished(ended: Ended) -> None:
            found.reply = ended

        def closed() -> None:
            found.running = False

        try:
            answer = await begin(found.model, comparison.turns, comparison.settings, self.metrics)
        except ApiError as error:
            closed()
            raise without_names(error) from error
        except BaseException:
            closed()
            raise
        return ReplyEvents(answer, finished, closed, without_names)

    async def vote(self, id: str, request: Request) -> JSONResponse:
        """Store a vote, and return which model was which."""
        body = read_body(VoteRequest, await request.body())
        comparison = self.comparisons.named(id)
        row = comparison.row(body.vote)
        if comparison.vote is not None:
            raise ApiError(409, "this comparison has a vote already", code="already_voted")
        comparison.vote = body.vote
        await self._stored(comparison, row)
        return private(comparison.revealed())

    async def _stored(self, comparison: Comparison, row: dict[str, Any]) -> None:
        try:
            await to_thread.run_sync(self.votes.append, row)
        except OSError as error:
            comparison.vote = None  # to be repeated
            logger.error("a vote could not be stored in %s: %s", self.votes.path, error)
            raise ApiError(503, f"the vote could not be stored: {error.strerror}", code="not_stored") from error

    async def results(self) -> JSONResponse:
        """Return the statistics of the file of votes."""
        from eval.generation.votes import read_votes, vote_figures

        def figures() -> dict[str, Any]:
            return vote_figures(read_votes(self.votes.path) if self.votes.path.exists() else ([], []))

        try:
            return private(await to_thread.run_sync(figures))
        except (UserError, OSError) as error:
            raise ApiError(503, f"the file of votes cannot be read: {error}", code="not_readable") from error

    async def evaluated(self) -> JSONResponse:
        """Return the items of evaluations that two of the checkpoints share."""
        async with self.comparing:
            found = await to_thread.run_sync(self.items)
            self.items = lambda: found
        return private(found or {"comparisons": []})


def private(content: dict[str, Any]) -> JSONResponse:
    """Return a response that browsers do not keep."""
    return JSONResponse(content, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


async def no_icon() -> Response:
    """Return nothing to browsers that ask for an icon by themselves."""
    return Response(status_code=204)


def page_paths() -> list[str]:
    """Return the paths of the pages and their files, which hold nothing secret: a key is asked for by the page."""
    return [*page_files(), "/favicon.ico"]


def add_web(app: FastAPI, web: Web) -> None:
    """Add the pages' routes to an application."""
    for path, file in page_files().items():
        app.add_api_route(path, file.respond, methods=["GET"], response_model=None)
    add = partial(app.add_api_route, response_model=None)
    add("/favicon.ico", no_icon, methods=["GET"])
    add("/web/settings", web.settings, methods=["GET"])
    add("/web/results", web.results, methods=["GET"])
    add("/web/items", web.evaluated, methods=["GET"])
    add("/web/reply", web.reply, methods=["POST"])
    add("/web/score", web.score, methods=["POST"])
    add("/web/comparisons", web.compare, methods=["POST"])
    add("/web/comparisons/{id}/vote", web.vote, methods=["POST"])
    add("/web/comparisons/{id}/{side}", web.side, methods=["POST"])
