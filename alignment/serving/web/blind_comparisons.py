"""Blind comparisons: two models in a random order that only the server knows, until there is a vote."""

from __future__ import annotations

import datetime
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from alignment.serving.api.answers_in_progress import Offered
from alignment.serving.api.api_errors import ApiError
from alignment.serving.web.reply_events import Ended
from alignment.serving.web.web_requests import Settings, Vote

MOST_KEPT = 256  # comparisons; the oldest are forgotten
SIDES = ("a", "b")
OTHER = {"a": "b", "b": "a"}
SAID = {429: "too many requests at once: try again", 400: "the conversation does not fit a model's context"}


@dataclass
class Side:
    """One side of a comparison: the model, and its reply once that is complete."""

    model: Offered
    running: bool = False
    reply: Ended | None = None


@dataclass
class Comparison:
    """Two replies to one conversation.

    Attributes:
        id: a name that cannot be guessed.
        sides: by what the page calls them: a is shown first.
        vote: None until there is one.
    """

    id: str
    turns: list[dict[str, str]]
    settings: Settings
    sides: dict[str, Side]
    vote: Vote | None = None
    began: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def side(self, name: str) -> Side:
        """Return a side whose reply is to be generated.

        Raises:
            ApiError: there is no such side, or its reply is there or in progress.
        """
        if name not in self.sides:
            raise ApiError(404, "a comparison has the sides a and b", param="side")
        side = self.sides[name]
        if side.running or side.reply is not None:
            raise ApiError(409, "this reply is generated once", code="already_generated")
        return side

    def replies(self) -> dict[str, Ended]:
        """Return both replies.

        Raises:
            ApiError: one is not complete.
        """
        found = {name: side.reply for name, side in self.sides.items() if side.reply is not None}
        if len(found) < len(self.sides):
            raise ApiError(409, "a vote needs both replies, complete", code="incomplete")
        return found

    def revealed(self) -> dict[str, Any]:
        """Return which model gave which reply."""
        return {
            "vote": self.vote,
            "models": {name: side.model.engine.name for name, side in self.sides.items()},
            "seed": self.settings.seed,
        }

    def row(self, vote: Vote) -> dict[str, Any]:
        """Return the line of the file of votes: a preference row that the reward and DPO stages read.

        Without a preferred reply (tie, both_bad), `chosen` and `rejected` are null: such rows are left out there.

        Raises:
            ApiError: a reply is not complete, or a vote prefers one of two that are the same.
        """
        replies = self.replies()
        if vote in OTHER and replies["a"].text.strip() == replies["b"].text.strip():
            raise ApiError(409, "the replies are the same: neither is better", code="same_replies")
        preferred = vote if vote in OTHER else None
        return {
            "prompt": self.turns,
            "chosen": None if preferred is None else _as_messages(replies[preferred]),
            "rejected": None if preferred is None else _as_messages(replies[OTHER[preferred]]),
            "vote": vote,
            "replies": {name: reply.text for name, reply in replies.items()},
            "models": {name: _identity(side.model) for name, side in self.sides.items()},
            "settings": self.settings.model_dump(exclude={"messages", "models"}),
            "ended": {name: {"reason": reply.reason, "tokens": reply.tokens} for name, reply in replies.items()},
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "seconds": round((datetime.datetime.now(datetime.UTC) - self.began).total_seconds(), 1),
            "id": self.id,
        }


def _as_messages(reply: Ended) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": reply.text}]


def _identity(model: Offered) -> dict[str, str | None]:
    served = model.engine.served
    return {"name": served.name, "digest": served.digest, "checkpoint": served.checkpoint}


class Comparisons:
    """The comparisons of a server, by id.

    Args:
        draw: random numbers; those of the operating system by default, so that nobody can foresee the order.
    """

    def __init__(self, draw: random.Random | None = None):
        self.draw = draw or secrets.SystemRandom()
        self.kept: dict[str, Comparison] = {}

    def open(self, models: Sequence[Offered], turns: list[dict[str, str]], settings: Settings) -> Comparison:
        """Return a new comparison of two of some models, in a random order; without a seed it gets one."""
        if settings.seed is None:
            settings = settings.model_copy(update={"seed": secrets.randbelow(2**53)})
        sides = {name: Side(model) for name, model in zip(SIDES, self.draw.sample(list(models), 2), strict=True)}
        comparison = Comparison(secrets.token_urlsafe(24), turns, settings, sides)
        self.kept[comparison.id] = comparison
        while len(self.kept) > MOST_KEPT:
            del self.kept[next(iter(self.kept))]
        return comparison

    def named(self, id: str) -> Comparison:
        """Return a comparison.

        Raises:
            ApiError: there is none of this id.
        """
        if id not in self.kept:
            message = f"no such comparison; the last {MOST_KEPT} since the server's start are kept"
            raise ApiError(404, message, code="comparison_not_found")
        return self.kept[id]


def without_names(error: ApiError) -> ApiError:
    """Return an error that does not say which model it is about."""
    said = SAID.get(error.status, "a model gave no reply; the server's output may say why")
    return ApiError(error.status, said, code=error.code, headers=error.headers)
