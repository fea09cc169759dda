"""Report as a finding whether a stage fits the memory of its device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.check.findings import Finding, error, warning
from alignment.estimate.fit import TOO_LARGE
from alignment.estimate.summary import SMALLEST, fixes
from alignment.text import gigabytes

if TYPE_CHECKING:
    from alignment.estimate.estimate import Estimate
    from alignment.estimate.sampling import SamplingEstimate

# Share of the memory beyond which the estimate's error (at most 12%, benchmarks/memory_plan.py) is no explanation.
CLEARLY_TOO_LARGE = 1.25


def memory_finding(found: Estimate, sharded: bool = False) -> Finding | None:
    """Return an error if the stage cannot fit its device, a warning if it may not fit, None if it fits.

    Args:
        sharded: whether the model is sharded across several devices, which the estimate does not account for.
    """
    if found.verdict != TOO_LARGE:
        return None
    fix, memory = "; ".join([*fixes(found), "or --no-check to try anyway"]), found.device.memory
    got = f"about {gigabytes(found.total_memory)} GB of {gigabytes(memory)} GB"
    if sharded:
        return warning("the stage would not fit a single device without sharding", got=got, fix=fix)
    if found.least > memory:
        got += f"; still about {gigabytes(found.least)} GB with {SMALLEST}"
        return error("the model does not fit the memory of this machine, whatever the batch size", got=got, fix=fix)
    if found.total_memory > CLEARLY_TOO_LARGE * memory:
        return error("the stage will not fit the memory of this machine", got=got, fix=fix)
    return warning("the stage may not fit the memory of this machine", got=got, fix=fix)


def sampling_finding(found: SamplingEstimate) -> Finding | None:
    """Return an error if sampling cannot fit its device, a warning if it may not fit, None if it fits."""
    if found.verdict != TOO_LARGE:
        return None
    memory = found.device.memory
    got = f"about {gigabytes(found.total_memory)} GB of {gigabytes(memory)} GB"
    fix = f"batch_size: {found.largest_batch}" if found.largest_batch else f"a machine with {gigabytes(found.least)} GB"
    fix += "; or --no-check to try anyway"
    if found.total_memory > CLEARLY_TOO_LARGE * memory:
        return error("the stage will not fit the memory of this machine", got=got, fix=fix)
    return warning("the stage may not fit the memory of this machine", got=got, fix=fix)
