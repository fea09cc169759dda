"""Smoke runs (`--quick`): they never take the place of a real result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alignment.errors import UserError, raise_all
from alignment.pipeline.records.previous import holds_results
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.stage_spec import is_smoke

if TYPE_CHECKING:
    from alignment.pipeline.graph import Pipeline

QUICK = "-quick"  # of the run directories of smoke runs


def require_no_real_result(pipeline: Pipeline, *, alone: bool, until: str | None = None) -> None:
    """Raise if a smoke run would replace stages that were trained for more steps than a smoke run trains.

    Args:
        alone: whether the pipeline is a single stage, whose folder is the command's --output_dir.
        until: the last stage of the pipeline that runs.
    """
    record, names = RunRecord(pipeline.run_dir), [spec.name for spec in pipeline.stages]
    last = names.index(until) if until in names else len(names)
    real = [
        spec
        for spec in pipeline.stages[: last + 1]
        if is_smoke(spec.recipe)
        and (entry := record.stages.get(spec.name))
        and not is_smoke(entry.get("recipe") or {})
        and holds_results(pipeline.run_dir / spec.name)
    ]
    apart = pipeline.run_dir.with_name(pipeline.run_dir.resolve().name + QUICK)
    errors = []
    for spec in real[:1]:
        fix = f"--output_dir {apart / spec.name if alone else apart}"
        if alone:
            places = {key: spec.place_of(key, pipeline.run_dir) for key in spec.parents if "." not in key}
            fix += "".join(f" --{key} {place}" for key, place in places.items())
        errors.append(
            UserError(
                "--quick would replace a real result by that of two steps",
                got=", ".join(str(pipeline.run_dir / one.name) for one in real),
                expected="a smoke run in a run directory of its own",
                fix=fix,
            )
        )
    raise_all(errors)
