"""A check that an engine computes what the model computes, before it is offered to clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from alignment.errors import UserError
from alignment.keyed_seeds import keyed_generator
from alignment.serving.batching.engine import not_paged
from alignment.serving.batching.keyed_sampling import Sampling
from alignment.serving.batching.pending_replies import EngineDown, Request

if TYPE_CHECKING:
    from alignment.serving.batching.engine import Engine

PROMPTS, LONGEST_PROMPT, REPLY = 2, 40, 8  # two at once: some layers mix neighbours of a batch
SECONDS = 300.0
TOLERANCE = {4: 1e-2, 2: 0.5}  # of a log-probability, by the bytes of a number


def require_agreement(engine: Engine) -> None:
    """Raise if the log-probabilities that an engine reports differ from those of a plain forward pass.

    Called before the server's event loop runs.

    Raises:
        UserError: they differ, or the engine fails.
    """
    prompts, replies, reported = asyncio.run(_sampled(engine))
    pairs = [
        (plain, one)
        for prompt, reply, ours in zip(prompts, replies, reported, strict=True)
        for plain, one in zip(engine.log_probs(prompt, reply), ours, strict=True)
    ]
    largest = max(abs(plain - one) for plain, one in pairs)
    if not largest <= TOLERANCE.get(engine.model.dtype.itemsize, TOLERANCE[2]):
        raise not_paged(engine.name, f"log-probabilities that differ by {largest:.2g} from those of a forward pass")


async def _sampled(engine: Engine) -> tuple[list[list[int]], list[list[int]], list[list[float]]]:
    """Return random prompts, replies sampled at once, and the log-probabilities that the engine reports."""
    import torch

    length = max(1, min(LONGEST_PROMPT, engine.context - REPLY))
    size = (PROMPTS, length)
    drawn = torch.randint(engine.vocabulary, size, generator=keyed_generator("engine check"))
    prompts: list[list[int]] = drawn.tolist()
    samplings = [Sampling(temperature=1.0, seed=row, top_logprobs=0) for row in range(PROMPTS)]
    limit = min(REPLY, engine.context - length)
    replies: list[list[int]] = [[] for _ in prompts]
    reported: list[list[float]] = [[] for _ in prompts]
    try:
        running = engine.submit(Request(prompts, samplings, limit, ends=[]))
        unfinished = len(prompts)
        while unfinished:
            step = await asyncio.wait_for(running.steps.get(), SECONDS)
            if step.error is not None:
                raise not_paged(engine.name, step.error.splitlines()[0])
            replies[step.reply] += step.tokens
            reported[step.reply] += [one.logprob for one in step.scored]
            unfinished -= step.finished
    except (EngineDown, TimeoutError) as error:
        raise UserError(f"the engine of {engine.name} does not generate", got=error or "no token") from error
    return prompts, replies, reported
