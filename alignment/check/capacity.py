"""Whether a stage fits the memory of its device, as a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.check.findings import Finding, error, warning
from alignment.estimate.fit import TOO_LARGE
from alignment.estimate.summary import SMALLEST, fixes
from alignment.text import gigabytes

if TYPE_CHECKING:
    from alignment.estimate.estimate import Estimate

# Beyond this share of the memory no error of the estimate explains it (benchmarks/memory_plan.py: 12% at most).
CLEARLY_TOO_LARGE = 1.25


def memory_finding(found: Estimate, sharded: bool = False) -> Finding | None:
    """An error where the stage cannot fit its device, a warning where it may, None where it does.

    Args:
        sharded: the model is parted among several devices, which the estimate does not know.
    """
    if found.verdict != TOO_LARGE:
        return None
    fix, memory = "; ".join([*fixes(found), "or --no-check, to try it as it is"]), found.device.memory
    got = f"about {gigabytes(found.total_memory)} GB of {gigabytes(memory)} GB"
    if sharded:
        return warning("the stage would not fit one device, if it were not parted among several", got=got, fix=fix)
    if found.least > memory:
        got += f", and about {gigabytes(found.least)} GB with {SMALLEST}"
        return error("the model does not fit the memory of this machine, however small its batches", got=got, fix=fix)
    if found.total_memory > CLEARLY_TOO_LARGE * memory:
        return error("the stage will not fit the memory of this machine", got=got, fix=fix)
    return warning("the stage may not fit the memory of this machine", got=got, fix=fix)
