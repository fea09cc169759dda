"""The replies of a request while an engine generates them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.serving.batching.deliveries import Delivery
from alignment.serving.batching.keyed_sampling import NOT_SCORED, Sampling, Scored, arguments

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.requests import GenerationOutput

    from alignment.serving.batching.engine import Engine


class QueueFull(Exception):
    """More requests than the engine's places and its queue hold."""


class EngineDown(Exception):
    """The engine does not generate (any more)."""


@dataclass(frozen=True)
class Step:
    """New tokens of a reply.

    Attributes:
        reply: index of the reply among those of its request.
        tokens: ids.
        scored: their log-probabilities, if the request asks for them.
        finished: whether the reply is complete.
        error: why the engine gave up, if it did.
    """

    reply: int
    tokens: list[int]
    scored: list[Scored] = field(default_factory=list)
    finished: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Request:
    """Replies to generate.

    Attributes:
        prompts: token ids of each reply's prompt.
        samplings: settings of each reply.
        max_tokens: tokens of a reply, at most.
        ends: ids of tokens that end a reply.
    """

    prompts: list[list[int]]
    samplings: list[Sampling]
    max_tokens: int
    ends: list[int]


class Replies:
    """The replies of a request while they are generated. To be closed, which frees their blocks at any time."""

    def __init__(self, engine: Engine, request: Request):
        self.engine, self.request = engine, request
        self.steps: asyncio.Queue[Step] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self.open: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        for index, (prompt, sampling) in enumerate(zip(request.prompts, request.samplings, strict=True)):
            name = f"{engine.name}-{next(engine.numbers)}"
            self.open[name], self.seen[name] = index, 0
            engine.outstanding.add(name)
            engine.deliveries.open[name] = Delivery(self._take, loop)
            if sampling.top_logprobs != NOT_SCORED:
                engine.sampling.scored[name] = []
            options: dict[str, Any] = arguments(sampling)
            accepted = engine.manager.add_request(
                prompt,
                request_id=name,
                max_new_tokens=request.max_tokens,
                streaming=True,
                eos_token_id=request.ends,
                **options,
            )
            if accepted is None:
                self.close()
                raise EngineDown(f"the engine of {engine.name} is stopping")

    def _take(self, output: GenerationOutput) -> None:
        """Put the new tokens of an output into the queue of steps."""
        name = output.request_id
        if name not in self.open:
            return
        tokens = output.generated_tokens[self.seen[name] :]
        scored = self.engine.sampling.scored.get(name, [])[self.seen[name] :][: len(tokens)]
        self.seen[name] += len(tokens)
        self.steps.put_nowait(Step(self.open[name], tokens, scored, output.is_finished(), output.error))
        if output.is_finished():
            self._forget(name)

    def end(self, index: int) -> None:
        """Stop a reply that is complete for its reader, such as after a stop string."""
        for name in [name for name, reply in self.open.items() if reply == index]:
            self.engine.manager.cancel_request(name)
            self._forget(name)

    def close(self) -> None:
        """Stop the replies that still run; safe to repeat."""
        for index in list(self.open.values()):
            self.end(index)

    def _forget(self, name: str) -> None:
        del self.open[name]
        self.engine.deliveries.open.pop(name, None)
        self.engine.sampling.scored.pop(name, None)
        self.engine.outstanding.discard(name)
