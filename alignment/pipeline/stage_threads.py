"""The number of threads that a stage computes with: the one that it started with, also when it resumes.

The order in which sums are formed depends on the number of threads, and with it the last bits of the weights
(docs/measurements.md has the measurement). `torch.set_num_threads` gives the bits that OMP_NUM_THREADS gives with the
settings of `alignment.threads`.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from alignment.callbacks.processes import launched
from alignment.threads import set_by_user

logger = logging.getLogger(__name__)


def stage_threads(name: str, earlier: Mapping[str, Any]) -> int:
    """Return the number of threads for a stage, and log a number that is not the one it started with or this process's.

    The user's own number, or a launcher's, is kept: the other processes would not know of another one.

    Args:
        name: of the stage.
        earlier: the record of the attempt whose step checkpoint the stage resumes from; empty if it starts.
    """
    import torch

    now = torch.get_num_threads()
    before = earlier.get("threads", now)
    if before == now:
        return now
    variable = set_by_user() or ("a launcher" if launched() > 1 else None)
    if variable:
        problem = "its weights will differ in their last bits from those of an uninterrupted run"
        logger.warning("%s: resumes with threads %d (%s), started with %d: %s", name, now, variable, before, problem)
        return now
    logger.info("%s: resumes with threads %d, as it started: another number gives other weights", name, before)
    if before > now:
        problem = "slower, and the last bits of the weights may differ from those of an uninterrupted run"
        logger.warning("%s: these are more threads than this process has cores (%d): %s", name, now, problem)
    return before


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
