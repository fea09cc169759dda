"""The order in which an engine reads prompts: a short one need not wait until a long one is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.generation.continuous_batching.requests import RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

if TYPE_CHECKING:
    from transformers.generation.continuous_batching.requests import RequestState

NAME = "short prompts first"
SECONDS_PER_TOKEN = 1e-3


class ShortPromptsFirst(FIFOScheduler):
    """Schedules running replies first, then prompts by when they are due: on arrival, plus a time for each token.

    So a short prompt overtakes a long one that came a little earlier, and none waits for ever.
    """

    def _process_candidates(self, candidates: list[RequestState], *budgets: Any) -> Any:
        running = [one for one in candidates if one.status == RequestStatus.DECODING]
        others = [one for one in candidates if one.status != RequestStatus.DECODING]
        return super()._process_candidates(running + sorted(others, key=due), *budgets)


def due(state: RequestState) -> float:
    """Return when a prompt is due, in seconds of the clock that stamps requests."""
    return state.created_time + SECONDS_PER_TOKEN * len(state.remaining_prefill_tokens)


def registered() -> str:
    """Return the name under which transformers finds the scheduler."""
    SCHEDULER_MAPPING[NAME] = ShortPromptsFirst
    return NAME
