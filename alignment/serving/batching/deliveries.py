"""The way of generated tokens from an engine's thread to the requests that wait for them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestState, RequestStatus

Listener = Callable[[GenerationOutput], None]


@dataclass(frozen=True)
class Delivery:
    """Where the outputs of a request go.

    Attributes:
        listener: called with each output.
        loop: the event loop that calls the listener.
    """

    listener: Listener
    loop: asyncio.AbstractEventLoop


class Deliveries(OutputRouter):
    """Hands outputs to the requests that are still open.

    transformers' own router keeps the handler of a cancelled request, and collects outputs without a handler in a queue
    that nothing empties.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[str, Delivery] = {}

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        """Call the listeners, with a single call into each event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Listener, GenerationOutput]]] = defaultdict(list)
        for output in outputs:
            delivery = self.open.get(output.request_id)
            if delivery is not None:
                by_loop[delivery.loop].append((delivery.listener, output))
        for loop, calls in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_call, calls)

    def fail_rest(self, reason: str) -> None:
        """Fail what is still open once the engine has ended: it drops requests that come in its last step."""
        rest = [GenerationOutput(name, error=reason, status=RequestStatus.FAILED) for name in list(self.open)]
        self.deliver_batch(rest)

    def fail_and_deliver(self, state: RequestState, error: Exception) -> None:
        state.status, state.error = RequestStatus.FAILED, str(error) or type(error).__name__
        self.deliver(state.to_generation_output())


def _call(calls: list[tuple[Listener, GenerationOutput]]) -> None:
    for listener, output in calls:
        listener(output)
