"""An estimate in a few lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.estimate.fit import LARGEST_BATCH, SAFE_SHARE, TOO_LARGE

if TYPE_CHECKING:
    from alignment.estimate.estimate import Estimate

SMALLEST = "a micro-batch of 1 and activation checkpointing"


def describe(estimate: Estimate) -> str:
    """A few short lines for people."""
    found = estimate
    learning = f"{_short(found.parameters)} parameters"
    if found.trainable < found.parameters:
        learning += f", {_short(found.trainable)} of them trained ({found.trainable / found.parameters:.1%})"
    parts = sorted(found.memory.items(), key=lambda part: -part[1])
    shown = [f"{name} {gigabytes(size)}" for name, size in parts if size >= 0.02 * found.total_memory]
    total, device = gigabytes(found.total_memory), gigabytes(found.device.memory)
    lines = [
        ("model", learning),
        ("steps", f"{found.steps:,} of {found.batch_sequences:,} sequences, about {_short(found.batch_tokens)} tokens"),
        ("tokens", f"about {_short(found.tokens)}"),
        ("memory", f"about {total} of {device} GB: {found.verdict}{_batch_words(found.largest_batch)}"),
        ("", ", ".join(shown)),
        *(("fix", fix) for fix in fixes(found)),
    ]
    if found.seconds is not None:
        lines.insert(3, ("time", f"about {_duration(found.seconds)} on {found.device.name}"))
    return "\n".join(f"  {label:8}{text}" for label, text in lines)


def fixes(found: Estimate) -> list[str]:
    """What would fit; the size of a model only where this one does not at all."""
    if not found.fixes and found.verdict != TOO_LARGE:
        return []
    changes = list(found.fixes)
    if found.least > found.device.memory and found.largest_model >= 1e6:
        changes.append(f"a model of about {_short(found.largest_model)} parameters or fewer, with {SMALLEST}")
    return changes or [f"a machine with at least {gigabytes(round(found.least / SAFE_SHARE))} GB"]


def _batch_words(largest: int) -> str:
    more = " or more" if largest == LARGEST_BATCH else ""
    return f", with a micro-batch of up to {largest}{more}" if largest else ""


def _short(number: float) -> str:
    """124 M for 124,439,808."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}" if size >= 1e8 else f"{size / 1e9:.2f}"


def _duration(seconds: float) -> str:
    """One or two figures: an estimate has no more."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{max(1, round(seconds))} s"
