"""Which stages' checkpoints are there and would stay, so that their children can be checked against them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignment.pipeline.graph import Pipeline
from alignment.pipeline.plan import Step, make_plan
from alignment.pipeline.record import RunRecord


def standing_checkpoints(pipeline: Pipeline, steps: Sequence[Step] | None = None) -> dict[str, Path]:
    """Stage -> checkpoint, of the stages that a run would skip, and of parents outside the pipeline that are there."""
    if not pipeline.run_dir.is_dir():
        return {}
    steps = make_plan(pipeline, RunRecord(pipeline.run_dir)) if steps is None else steps
    stay = {step.spec.name for step in steps if not step.runs}
    own = {spec.name for spec in pipeline.stages}
    beside = {parent for spec in pipeline.stages for parent in spec.parents.values()} - own
    places = {name: pipeline.run_dir / name / "checkpoint" for name in stay | beside}
    return {name: place for name, place in places.items() if place.is_dir()}
