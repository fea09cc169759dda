"""Whether a stage fits a device, and what to change where it does not."""

from __future__ import annotations

from dataclasses import replace

from alignment.check.phases import Run, memory_parts
from alignment.check.speed import Device

FITS, TIGHT, TOO_LARGE = "fits", "tight", "does not fit"
# Below this share of the device's memory the estimate's own error does no harm.
SAFE_SHARE = 0.8
LARGEST_BATCH = 1024  # none larger is looked for


def verdict(total: int, device: Device) -> str:
    if total <= SAFE_SHARE * device.memory:
        return FITS
    return TIGHT if total <= device.memory else TOO_LARGE


def mends(run: Run, device: Device) -> list[str]:
    """The gentlest changes of the recipe after which it fits, each by itself, then together; what else there is."""
    smaller = _smaller_batches(run)
    checkpointed = [
        (", ".join(filter(None, [change, "activation_checkpointing: true"])), replace(one, checkpointing=True))
        for change, one in [("", run), *smaller]
        if not run.checkpointing
    ]
    found = []
    for candidates in (smaller, checkpointed):
        fitting = [change for change, one in candidates if verdict(sum(memory_parts(one).values()), device) == FITS]
        found += fitting[:1]
    if not found:
        found.append("fewer steps_per_generation: a smaller rollout" if run.stage == "ppo" else "a shorter max_length")
    if run.models.policy.trainable == run.models.policy.parameters and run.stage != "pretrain":
        found.append("use_peft: true (LoRA: no gradients and moments of the whole model)")
    return found


def largest_batch(run: Run, device: Device) -> int:
    """By halves: memory grows with the micro-batch."""

    def fits(micro: int) -> bool:
        tried = replace(run, batch=replace(run.batch, micro=micro))
        return verdict(sum(memory_parts(tried).values()), device) == FITS

    low, high = 0, LARGEST_BATCH + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _smaller_batches(run: Run) -> list[tuple[str, Run]]:
    """Halved micro-batches with the optimizer's batch, and PPO's rollout, as they are."""
    changed, found, batch = [], [], run.batch
    while batch.micro % 2 == 0 or batch.evaluated > 1:
        halve = batch.micro % 2 == 0
        batch = replace(
            batch,
            micro=batch.micro // 2 if halve else batch.micro,
            accumulation=batch.accumulation * 2 if halve else batch.accumulation,
            evaluated=max(1, batch.evaluated // 2),
        )
        changed = [f"per_device_train_batch_size: {batch.micro}"]
        changed.append(f"gradient_accumulation_steps: {batch.accumulation}")
        if run.stage == "ppo":
            changed.append(f"steps_per_generation: {batch.rollout // batch.micro}")
        changed.append(f"per_device_eval_batch_size: {batch.evaluated}")
        found.append((", ".join(changed), replace(run, batch=batch)))
    return found
