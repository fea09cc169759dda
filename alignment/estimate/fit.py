"""Decide whether a stage fits a device, and which changes make it fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from alignment.estimate.compute import Device
from alignment.estimate.peak_memory import Run, memory_parts

FITS, TIGHT, TOO_LARGE = "fits", "tight", "does not fit"
# Up to this share of the device's memory, the error of the prediction does no harm.
SAFE_SHARE = 0.8
LARGEST_BATCH = 1024  # the search ends here
SHORTEST = 64  # tokens; the shortest max_length that is proposed

Change = tuple[str, Run]  # recipe keys as text, and the run with them


def total(run: Run) -> int:
    """Bytes at the peak."""
    return sum(memory_parts(run).values())


def verdict(size: int, device: Device) -> str:
    """`fits`, `tight` or `does not fit`.

    Args:
        size: bytes at the peak.
    """
    if size <= SAFE_SHARE * device.memory:
        return FITS
    return TIGHT if size <= device.memory else TOO_LARGE


def least(run: Run) -> int:
    """Bytes at the peak with a micro-batch of 1 and activation checkpointing, other settings unchanged."""
    return total(_smallest(run))


def fixes(run: Run, device: Device, cheaper: Iterable[Change]) -> list[str]:
    """The smallest changes to the recipe that make it fit: alone, then combined, then changes that cost quality.

    Args:
        cheaper: ways to train the model in less memory, those that cost least quality first.
    """
    wanted = (FITS,) if verdict(total(run), device) == TIGHT else (FITS, TIGHT)
    found = [_first(changes, device, wanted) for changes in (_smaller_batches(run), _checkpointed(run))]
    others = (_first(_changed(words, one), device, wanted) for words, one in cheaper)
    found.append(next(filter(None, others), None))
    if not any(found):
        found.append(_first(_less(run), device, wanted))
    return list(filter(None, found))


def largest_model(run: Run, device: Device) -> int:
    """Parameters of the largest model that fits with the smallest settings.

    All memory but the framework's is taken to be proportional to the parameters.
    """
    parts = memory_parts(_smallest(run))
    room = SAFE_SHARE * device.memory - parts["framework"]
    return max(0, round(run.models.policy.parameters * room / (sum(parts.values()) - parts["framework"])))


def largest_batch(run: Run, device: Device) -> int:
    """The largest micro-batch that fits, by bisection: memory grows with the micro-batch."""

    def fits(micro: int) -> bool:
        return verdict(total(replace(run, batch=replace(run.batch, micro=micro))), device) == FITS

    low, high = 0, LARGEST_BATCH + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _first(changes: Iterable[Change], device: Device, wanted: tuple[str, ...]) -> str | None:
    """The first change that reaches the best possible of the wanted verdicts, best verdict first."""
    found = [(words, verdict(total(run), device)) for words, run in changes]
    for one in wanted:
        for words, reached in found:
            if reached == one:
                return words if one == FITS else f"{words} ({one})"
    return None


def _changed(words: str, run: Run) -> Iterator[Change]:
    """A change alone, and combined with smaller batches and checkpointing."""
    yield words, run
    for more, one in [*_smaller_batches(run), *_checkpointed(run)]:
        yield f"{words}, {more}", one


def _checkpointed(run: Run) -> list[Change]:
    if run.checkpointing:
        return []
    return [
        (", ".join(filter(None, [words, "activation_checkpointing: true"])), replace(one, checkpointing=True))
        for words, one in [("", run), *_smaller_batches(run)]
    ]


def _smaller_batches(run: Run) -> list[Change]:
    """Smaller micro-batches with the same optimizer batch and the same rollout."""
    batch = run.batch
    micros = [micro for micro in range(min(batch.micro // 2, LARGEST_BATCH), 0, -1) if batch.micro % micro == 0]
    sizes = [(micro, max(1, batch.evaluated * micro // batch.micro)) for micro in micros]
    if (sizes or [(batch.micro, batch.evaluated)])[-1][1] > 1:
        sizes.append((1, 1))
    return [_with_batch(run, micro, evaluated) for micro, evaluated in sizes]


def _with_batch(run: Run, micro: int, evaluated: int) -> Change:
    batch = run.batch
    evaluated = max(evaluated // batch.group * batch.group, min(batch.group, batch.evaluated))  # whole groups
    accumulation = batch.accumulation * batch.micro // micro
    keys = {}
    if micro != batch.micro:
        keys = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
        keys |= {"steps_per_generation": batch.rollout // micro} if batch.rollout else {}
    if evaluated != batch.evaluated:
        keys["per_device_eval_batch_size"] = evaluated
    changed = replace(batch, micro=micro, accumulation=accumulation, evaluated=evaluated)
    return _words(keys), replace(run, batch=changed)


def _smallest(run: Run) -> Run:
    evaluated = min(run.batch.group, run.batch.evaluated)
    return replace(run, batch=replace(run.batch, micro=1, evaluated=evaluated), checkpointing=True)


def _less(run: Run) -> Iterator[Change]:
    """Changes to what a step learns from: a smaller rollout, or shorter rows in other stages."""
    smallest = _smallest(run)
    batch = smallest.batch
    smaller = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": batch.evaluated}
    keys: dict[str, object] = smaller | {"activation_checkpointing": "true"}
    rollout = ("rollout", "steps_per_generation", batch.group)
    part, key, end = rollout if batch.rollout else ("length", "max_length", SHORTEST)
    size = getattr(batch, part) // 2
    while size >= end and size % batch.group == 0:
        yield _words({key: size} | keys), replace(smallest, batch=replace(batch, **{part: size}))
        size //= 2


def _words(keys: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in keys.items())
