"""The plan of a run: which stages run, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alignment.durable.steps import last_step, newest_complete, step_of
from alignment.errors import UserError, suggestion
from alignment.pipeline.evals import EvalJob
from alignment.pipeline.graph import Pipeline
from alignment.pipeline.parents import digest_outside
from alignment.pipeline.recipes.packaged_recipes import short_name
from alignment.pipeline.records.digest import data_digests, digest_recipe, digest_value
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.stage_spec import StageSpec
from alignment.redaction import redacted
from alignment.stages import PARTS
from alignment.text import table


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
        why: the reason to run it; empty if it is up to date.
        resumes: it was interrupted, and its recipe and parents are unchanged, so that it resumes in its folder.
        data: digests of the local files that the recipe names.
    """

    spec: StageSpec
    recipe_digest: str
    why: str
    resumes: bool = False
    data: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return bool(self.why)


def make_plan(pipeline: Pipeline, record: RunRecord, until: str | None = None, fresh: bool = False) -> list[Step]:
    """The steps up to and including `until`; finished, unchanged stages are skipped unless `fresh`."""
    specs = pipeline.stages
    if until is not None:
        names = [spec.name for spec in specs]
        if until not in names:
            raise UserError(f"--until: {pipeline.name} has no such stage", got=until, fix=suggestion(until, names))
        specs = specs[: names.index(until) + 1]
    steps: list[Step] = []
    for spec in specs:
        data = data_digests(spec.recipe, spec.rows_from.values())
        digest = digest_recipe(spec.recipe, data)
        rerun = [step.spec.name for step in steps if step.runs]
        if fresh:
            steps.append(Step(spec, digest, "--fresh", data=data))
        else:
            step = plan_stage(spec, digest, record, pipeline.run_dir, rerun)
            steps.append(replace(step, data=data))
    return steps


def plan_stage(spec: StageSpec, recipe_digest: str, record: RunRecord, run_dir: Path, rerun: Sequence[str]) -> Step:
    """Decide whether a stage has to run, and whether it resumes.

    Args:
        rerun: the stages before it that run.
    """
    entry = record.stages.get(spec.name)
    if entry is None:
        return Step(spec, recipe_digest, "not run yet")
    changed = change_since(spec, entry, recipe_digest, record, rerun)
    if entry["status"] != "done":
        ended = {"running": "interrupted"}.get(entry["status"], entry["status"]) + " last time"
        return Step(spec, recipe_digest, f"{ended}; {changed or resume_point(run_dir / spec.name)}", not changed)
    if not (run_dir / spec.name / spec.facts.product).is_dir():
        return Step(spec, recipe_digest, f"its {spec.facts.product} is gone")
    return Step(spec, recipe_digest, changed)


def change_since(
    spec: StageSpec, entry: dict[str, Any], recipe_digest: str, record: RunRecord, rerun: Sequence[str]
) -> str:
    """The change in a stage's recipe or parents since it last ran, as text; empty if there is none."""
    if entry["recipe_digest"] != recipe_digest:
        return "recipe changed: " + changed_keys(entry["recipe"], redacted(spec.recipe))
    for parent in spec.parents.values():
        if parent in rerun:
            return f"{parent} runs again"
    now = parent_digests(spec, record)
    changed = [key for key, digest in now.items() if entry["parent_digests"].get(key) != digest]
    return f"{(spec.parents | spec.outside)[changed[0]]} changed" if changed else ""


def resume_point(stage_dir: Path) -> str:
    """The step or part from which an interrupted stage resumes, as text; step checkpoints are not verified."""
    checkpoint = newest_complete(stage_dir / "trainer")
    if (stage_dir / "stage.json").exists():
        return "finished, not yet recorded"
    if parts := len(list((stage_dir / PARTS).glob("*.jsonl"))):
        return f"resumes after {parts} parts"
    if checkpoint is None:
        return "restarts, as there is no step checkpoint yet"
    try:
        return f"resumes at step {step_of(checkpoint)} of {last_step(checkpoint)}"
    except (OSError, ValueError, LookupError):
        return f"{checkpoint.name} is damaged: resumes from an earlier one"


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The keys whose values differ, as text: three at most."""
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if not keys:
        return "data files"
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def parent_digests(spec: StageSpec, record: RunRecord) -> dict[str, str | None]:
    """Recipe key -> digest of the parent as it is now."""
    stages = {key: record.stages.get(name, {}).get("digest") for key, name in spec.parents.items()}
    return stages | {key: digest_outside(value) for key, value in spec.outside.items()}


def stage_digest(recipe_digest: str, parents: dict[str, str | None], checkpoint_digest: str) -> str:
    """The digest that child stages compare; it changes with a stage's recipe, parents and weights."""
    return digest_value([recipe_digest, parents, checkpoint_digest])


def plan_table(steps: Sequence[Step], jobs: Sequence[EvalJob]) -> str:
    """The plan as a table, a row per stage."""
    rows = []
    for step in steps:
        spec = step.spec
        parents = ", ".join(dict.fromkeys((spec.parents | spec.outside).values())) or "nothing"
        plan = f"run ({step.why})" if step.runs else "up to date"
        suites = ", ".join(f"{job.suite} ({job.format})" for job in jobs if job.stage == spec.name)
        rows.append((spec.name, parents, short_name(spec.recipe_path), plan, suites))
    own = [job for job in jobs if job.base is not None and job.after in [step.spec.name for step in steps]]
    if own:
        suites = ", ".join(f"{job.suite} ({job.format})" for job in own)
        rows.insert(0, (own[0].stage, "", "", f"{own[0].base}, not trained", suites))
    return table(("STAGE", "STARTS FROM", "RECIPE", "PLAN", "EVALUATED ON"), rows)


def remaining_checkpoints(pipeline: Pipeline, steps: Sequence[Step] | None = None) -> dict[str, Path]:
    """Stage -> checkpoint or rows, for stages that a run would skip and existing parents outside the pipeline."""
    if not pipeline.run_dir.is_dir():
        return {}
    steps = make_plan(pipeline, RunRecord(pipeline.run_dir)) if steps is None else steps
    places = {
        parent: spec.place_of(key, pipeline.run_dir) for spec in pipeline.stages for key, parent in spec.parents.items()
    }
    for spec in pipeline.stages:
        places.pop(spec.name, None)
    specs = [step.spec for step in steps if not step.runs]
    places |= {spec.name: pipeline.run_dir / spec.name / spec.facts.product for spec in specs}
    return {name: place for name, place in places.items() if place.is_dir()}
