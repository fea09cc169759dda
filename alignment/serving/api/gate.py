"""What a request must pass before a route sees it: key, origin, type and size of the body."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from alignment.serving.api.api_errors import ApiError
from alignment.serving.api.metrics_of_server import ServerMetrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2**21
SECONDS = 30.0  # for the body to arrive
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
CLIENT_LEFT = 499
OTHER = "other"  # the route in the metrics of paths that there are not: clients choose paths


@dataclass(frozen=True)
class Guard:
    """Who may use a server.

    Attributes:
        hosts: names of this server that a request's Host header may have.
        api_key: the key that requests must bring; None for no key.
        open_paths: paths that need no key.
        most_bytes: of a body.
    """

    hosts: Collection[str] = LOOPBACK
    api_key: str | None = None
    open_paths: Collection[str] = ("/health",)
    most_bytes: int = MOST_BYTES


class Gate:
    """ASGI middleware that refuses requests by what can be said without their content, and counts all of them.

    A body is read whole before a route is called: in time and within its size, whatever its header says.
    """

    def __init__(self, app: ASGIApp, guard: Guard, metrics: ServerMetrics, paths: Collection[str]):
        self.app, self.guard, self.metrics, self.paths = app, guard, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = CLIENT_LEFT

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, counted)
        finally:
            route = scope["path"] if scope["path"] in self.paths else OTHER
            self.metrics.requests.labels(route, str(status)).inc()

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._require_welcome(scope)
            body = await self._body(scope, receive)
        except ApiError as error:
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replayed(body, receive), send)

    def _require_welcome(self, scope: Scope) -> None:
        """Raise for a request without the key, from another site's page, or with a body that is no JSON."""
        headers, guard = Headers(scope=scope), self.guard
        if guard.api_key is not None and scope["path"] not in guard.open_paths:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), guard.api_key.encode()):
                needed = {"WWW-Authenticate": "Bearer"}
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key", headers=needed)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).hostname not in {host.strip("[]") for host in guard.hosts}:
            raise ApiError(403, "requests from other sites' pages are refused")
        if scope["method"] == "POST" and headers.get("content-type", "").split(";")[0].strip() != "application/json":
            # A page of another site can send other types without asking the browser's permission.
            raise ApiError(415, "the body must be JSON, with Content-Type: application/json")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if the client leaves before it is complete."""
        most = self.guard.most_bytes
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise _too_large(most)
        body = bytearray()
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            closing = {"Connection": "close"}
            raise ApiError(408, f"the body did not arrive within {SECONDS:.0f} s", headers=closing) from None


def _too_large(most: int) -> ApiError:
    # The rest of the body is not read: the connection cannot be used again.
    return ApiError(413, f"the body is larger than {most} bytes", headers={"Connection": "close"})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body, and afterwards what the client does."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
