"""An estimate as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.estimate.fit import LARGEST_BATCH, SAFE_SHARE, TOO_LARGE
from alignment.text import gigabytes, rough_duration, short_number

if TYPE_CHECKING:
    from alignment.estimate.estimate import Estimate

WORDS = {"framework": "libraries (torch, transformers, ...)"}  # the parts that have other words on the terminal
SMALLEST = "a micro-batch of 1 and activation checkpointing"


def describe(estimate: Estimate) -> str:
    """An estimate as indented lines."""
    found = estimate
    learning = f"{short_number(found.parameters)} parameters"
    if found.trainable < found.parameters:
        learning += f", {short_number(found.trainable)} of them trained ({found.trainable / found.parameters:.1%})"
    parts = sorted(found.memory.items(), key=lambda part: -part[1])
    parts = [(WORDS.get(name, name), size) for name, size in parts if size >= 0.02 * found.total_memory]
    shown = [f"{name} {gigabytes(size)}" for name, size in parts]
    total, device = gigabytes(found.total_memory), gigabytes(found.device.memory)
    lines = [
        ("model", learning),
        (
            "steps",
            f"{found.steps:,} of {found.batch_sequences:,} sequences, about {short_number(found.batch_tokens)} tokens",
        ),
        ("tokens", f"about {short_number(found.tokens)}"),
        ("memory", f"about {total} of {device} GB: {found.verdict}{_batch_words(found.largest_batch)}"),
        ("", ", ".join(shown)),
        *(("fix", fix) for fix in fixes(found)),
    ]
    if found.seconds is not None:
        lines.insert(3, ("time", f"about {rough_duration(found.seconds)} on {found.device.name}"))
    return "\n".join(f"  {label:8}{text}" for label, text in lines)


def fixes(found: Estimate) -> list[str]:
    """Changes that make a stage fit; a smaller model only if no setting makes this one fit."""
    if not found.fixes and found.verdict != TOO_LARGE:
        return []
    changes = list(found.fixes)
    if found.least > found.device.memory and found.largest_model >= 1e6:
        changes.append(f"a model of about {short_number(found.largest_model)} parameters or fewer, with {SMALLEST}")
    return changes or [f"a machine with at least {gigabytes(round(found.least / SAFE_SHARE))} GB"]


def _batch_words(largest: int) -> str:
    more = " or more" if largest == LARGEST_BATCH else ""
    return f", with a micro-batch of up to {largest}{more}" if largest else ""
