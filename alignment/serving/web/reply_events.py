"""A reply as a stream of events that the pages read: pieces of text, then how it ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from alignment.serving.api.answers_in_progress import Answer
from alignment.serving.api.api_errors import ApiError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


@dataclass(frozen=True)
class Ended:
    """A complete reply: its text, why it ended (`stop` or `length`), its number of tokens and its seed."""

    text: str
    reason: str
    tokens: int
    seed: int


class ReplyEvents(StreamingResponse):
    """A reply as server-sent events: {text} for each piece, then {ended: {reason, tokens, seed}} or {error}.

    No event names the model. However the response ends, generation stops.

    Args:
        answer: the reply in progress.
        finished: called with the complete reply before the last event.
        closed: called at the end, also if the client left.
        shown: what the reader is shown of an error.
    """

    def __init__(
        self,
        answer: Answer,
        finished: Callable[[Ended], None] | None = None,
        closed: Callable[[], None] | None = None,
        shown: Callable[[ApiError], ApiError] | None = None,
    ):
        self.answer, self.finished, self.closed, self.shown = answer, finished, closed, shown
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answer.close()
            if self.closed is not None:
                self.closed()

    async def _events(self) -> AsyncIterator[str]:
        text = ""
        try:
            async with aclosing(self.answer.pieces()) as pieces:
                async for piece in pieces:
                    text += piece.text
                    if piece.text:
                        yield _event({"text": piece.text})
        except ApiError as error:
            shown = error if self.shown is None else self.shown(error)
            yield _event({"error": shown.message})
            return
        reply = self.answer.texts[0]
        ended = Ended(text, reply.reason or "", len(reply.tokens), self.answer.head.seed)
        if self.finished is not None:
            self.finished(ended)
        yield _event({"ended": {"reason": ended.reason, "tokens": ended.tokens, "seed": ended.seed}})


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"
