"""The process around the application: socket, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from alignment.errors import UserError
from alignment.serving.batching.engine import Engine

EXTRA_SECONDS = 5.0  # in which streams that were ended are still written
MOST_CONNECTIONS = 2048


class HttpServer(uvicorn.Server):
    """Serves until a signal; then refuses new connections, and gives running replies some seconds to finish.

    Replies that are not finished then end with an error event.

    Args:
        grace: seconds.
        ready: called once requests are accepted.
    """

    def __init__(self, app: ASGIApp, engines: Sequence[Engine], grace: float, ready: Callable[[], None] | None = None):
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=int(grace + EXTRA_SECONDS),
            lifespan="off",
        )
        super().__init__(config)
        self.engines, self.grace, self.ready = engines, grace, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.ready is not None:
            self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self.loop.call_soon_threadsafe(self.drain)
        super().handle_exit(sig, frame)

    def drain(self) -> None:
        """End the engines after the grace period."""
        self.loop.call_later(self.grace, self._stop_soon)

    def _stop_soon(self) -> None:
        self.ending = asyncio.ensure_future(self._stop_engines())

    async def _stop_engines(self) -> None:
        for engine in self.engines:
            await asyncio.to_thread(engine.stop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        await self._stop_engines()


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, so that a port in use is reported before models are loaded.

    Raises:
        UserError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise UserError(
            f"cannot listen on {host}:{port}",
            got=str(error),
            expected="an address of this machine and a free port",
            fix="--port 0 takes a free port",
        ) from error
    return bound
