"""Closing lines: a stage's result, time, peak memory and place, and the command to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.pipeline.stage_spec import StageSpec
from alignment.stages import CAUSAL_LM, CLASSIFIER
from alignment.text import duration

NEXT = {CAUSAL_LM: "align chat {}", CLASSIFIER: "align reward-card {} --pairs FILE"}


def stage_line(name: str, result: Mapping[str, Any], seconds: float, stage_dir: Path) -> str:
    """Return the closing line of a stage.

    Args:
        result: its stage.json.
        seconds: of all attempts.
    """
    memory = result.get("peak_memory_gb")
    parts = [f"done in {duration(seconds)}", *([] if memory is None else [f"peak memory {memory:.1f} GB"])]
    parts += [*result_figures(result.get("metrics") or {}), f"in {stage_dir}"]
    return f"{name}: {', '.join(parts)}"


def result_figures(metrics: Mapping[str, Any]) -> list[str]:
    """Return the main figures of a finished stage: those of the closing evaluation, otherwise of training."""
    from alignment.callbacks.stage_progress import figures_of

    for prefix in ("eval_", "", "train_"):
        own = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
        if found := figures_of(own):
            return [f"{prefix.replace('_', ' ')}{text}" for text in found]
    return []


def next_command(stages: Sequence[StageSpec], run_dir: Path) -> str | None:
    """Return the command that uses the last language model of a run, or else its last reward model."""
    for kind, command in NEXT.items():
        found = [spec.name for spec in stages if spec.facts.checkpoint == kind]
        if found:
            return command.format(shlex.quote(str(run_dir / found[-1] / "checkpoint")))
    return None
