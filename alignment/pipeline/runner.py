"""Run a pipeline: its stages in order in one process, evaluations between them, a report at the end.

Before a stage runs, its parents are verified (records/lineage.py): damaged or mismatched ones are refused. A folder
that is about to be replaced is moved aside with its evaluations (records/previous.py): nothing is deleted.
"""

import contextlib
import datetime
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignment.durable.lock import locked
from alignment.durable.manifest import LINEAGE, MANIFEST, damage, digest_checkpoint
from alignment.durable.read import read_json
from alignment.durable.steps import newest_complete
from alignment.errors import UserError, gathered, raise_all
from alignment.models.checkpoints import is_path
from alignment.pipeline.closing import next_command, stage_line
from alignment.pipeline.evals import EvalJob, Harness, make_jobs, report_settings, run_jobs, up_to_date
from alignment.pipeline.free_memory import free_memory
from alignment.pipeline.graph import Pipeline
from alignment.pipeline.plan import Step, make_plan, parent_digests, plan_table, stage_digest
from alignment.pipeline.recipes.pipeline_file import PIPELINE_FILE
from alignment.pipeline.records.environment import code_digest, git_state, hardware, versions
from alignment.pipeline.records.lineage import require_finished, require_parents, write_lineage
from alignment.pipeline.records.previous import holds_results, set_aside
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.recovery import FOUND_OUT, run_to_the_end
from alignment.pipeline.stage_spec import StageSpec, is_smoke
from alignment.pipeline.stage_threads import stage_threads, threads
from alignment.pipeline.stopping import ended
from alignment.redaction import redact_text, redacted
from alignment.text import duration, table
from alignment.threads import describe_threads

STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class Done:
    """A line of the closing summary: seconds, and peak memory in GB."""

    name: str
    result: str
    seconds: float | None = None
    memory: float | None = None


def run_pipeline(
    pipeline: Pipeline,
    *,
    until: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
    harness: Harness | None = None,
    write_report: Callable[[Path], Path] | None = None,
    check: Callable[[Pipeline, Sequence[Step]], None] | None = None,
    begin: Callable[[], None] | None = None,
) -> None:
    """Bring a run directory up to date with its pipeline.

    Args:
        until: the last stage to run; default: all.
        fresh: rerun finished stages.
        dry_run: print the plan, and write nothing.
        harness: runs the evaluations; default: the package `eval`.
        write_report: writes the report of a run directory and returns its path; default: no report.
        check: raises if the stages of the plan must not run; default: no check.
        begin: called when the run directory is locked and nothing speaks against the first stage, right before its
            folder is set aside; also if the stage is up to date.
    """
    run_dir = pipeline.run_dir
    record = RunRecord(run_dir)
    harness = harness or Harness()
    steps = make_plan(pipeline, record, until, fresh)
    jobs = make_jobs(pipeline, harness, str(pipeline.recipe_dir / PIPELINE_FILE))
    check_replaceable(steps, record, run_dir)
    require_finished([step.spec for step in steps if not step.runs], record, run_dir)
    say(f"{pipeline.name} (seed {pipeline.seed}) in {run_dir}\n{plan_table(steps, jobs)}")
    if check:
        check(pipeline, steps)
    if dry_run:
        return
    require_outside([step.spec for step in steps if step.runs], run_dir)
    started = time.monotonic()
    with locked(run_dir):
        require_unchanged(record)
        if any(step.runs for step in steps):
            say(f"computes with {computing()}")
        describe_run(pipeline, record, harness)
        done = []
        for number, step in enumerate(steps):
            if check and step.runs and any(one.runs for one in rows_made(step, steps)):
                finished = [replace(one, why="") for one in steps[:number]]
                check(pipeline, [*finished, step])  # its rows are there now
            done.append(bring_up_to_date(step, record, run_dir, begin))
            begin = None
            now = [job for job in jobs if job.after == step.spec.name]
            for of_base in (True, False):
                own = [job for job in now if (job.base is not None) == of_base]
                done += evaluate_stage(own, record, run_dir, harness)
        report = write_report(run_dir) if write_report else None
    say(summary(pipeline, done, time.monotonic() - started, report))
    if any(is_smoke(step.spec.recipe) for step in steps):
        say("smoke run: two steps per stage, to see that everything works; the figures mean nothing")
    if command := next_command([step.spec for step in steps], run_dir):
        say(f"next: {command}")


def require_outside(specs: Sequence[StageSpec], run_dir: Path) -> None:
    """Raise before anything runs if what a stage needs of others is not there, such as the endpoint of a judge."""
    errors: list[UserError] = []
    for spec in specs:
        with gathered(errors):
            if hasattr(spec.module, "require_outside"):
                spec.module.require_outside(*spec.configs(run_dir))
    raise_all(errors)


def rows_made(step: Step, steps: Sequence[Step]) -> list[Step]:
    """The steps of the stages that write a stage's rows."""
    return [one for one in steps if one.spec.name in step.spec.rows_from.values()]


def computing() -> str:
    """The threads of this process, as text."""
    import torch

    return describe_threads(torch.get_num_threads())


def require_unchanged(record: RunRecord) -> None:
    """Raise if another process changed the run directory between the plan and the lock."""
    if RunRecord(record.path.parent).content != record.content:
        raise UserError(
            f"{record.path} has changed while the run was planned",
            got="another align process worked there, and has ended",
            fix="repeat the command: finished work is not repeated",
        )


def describe_run(pipeline: Pipeline, record: RunRecord, harness: Harness) -> None:
    """Record the latest run and its environment, in addition to each stage's own record."""
    run: dict[str, Any] = {
        "name": pipeline.name,
        "seed": pipeline.seed,
        "recipe": str(pipeline.recipe_dir),
        "inputs": redacted(pipeline.inputs),
    }
    if pipeline.evals.suites:  # a stage run on its own leaves the pipeline's settings as they are
        run["report"] = report_settings(pipeline, harness)
    record.describe_run(**run, **surroundings())


def surroundings() -> dict[str, Any]:
    """Versions, git state, code digest and hardware."""
    return {"versions": versions(), "git": git_state(), "code": code_digest(), "hardware": hardware()}


def bring_up_to_date(step: Step, record: RunRecord, run_dir: Path, begin: Callable[[], None] | None = None) -> Done:
    """Run a stage, or print that it is up to date; `begin` is called before its folder changes."""
    name = step.spec.name
    if not step.runs:
        if begin:
            begin()
        say(f"\n{name}: up to date, skipped (recipe and parents unchanged)")
        return Done(name, "up to date")
    say(f"\n{name}: running ({step.why})")
    seconds = run_stage(step, record, run_dir, begin)
    say(stage_line(name, read_json(run_dir / name / STAGE_FILE), seconds, run_dir / name))
    return Done(name, "done", seconds, peak_memory())


def _require_optimizers(configs: Sequence[Any]) -> None:
    from transformers import TrainingArguments

    from alignment.stages.keys.trainer_keys import require_optimizer

    for one in configs:
        if isinstance(one, TrainingArguments):
            require_optimizer(one)


def run_stage(step: Step, record: RunRecord, run_dir: Path, begin: Callable[[], None] | None = None) -> float:
    """Run a stage in its folder, record what it was made from, and return its seconds."""
    spec = step.spec
    configs = spec.configs(run_dir)
    _require_optimizers(configs)
    if hasattr(spec.module, "check"):
        spec.module.check(*configs)  # the parents' files, before anything is moved
    require_parents(spec, record, run_dir)
    if begin:
        begin()
    earlier = record.stages[spec.name] if step.resumes else {}
    if not step.resumes and (kept := set_aside(spec.name, run_dir, record.stages.get(spec.name))):
        say(f"{spec.name}: its previous folder was moved to {kept}")
    parents = parent_digests(spec, record)
    count = stage_threads(spec.name, earlier if newest_complete(run_dir / spec.name / "trainer") else {})
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record.replace(
        "stages",
        spec.name,
        status="running",
        recipe_file=spec.recipe_path,
        recipe=redacted(spec.recipe),
        data=step.data,
        recipe_digest=step.recipe_digest,
        parents=spec.parents | spec.outside,
        parent_digests=parents,
        seed=spec.recipe.get("seed"),
        threads=count,
        **surroundings(),
        started=earlier.get("started", now),
        attempts=earlier.get("attempts", 0) + 1,
        **{key: earlier[key] for key in FOUND_OUT if key in earlier},
    )
    started = time.monotonic()
    try:
        if not is_written(run_dir / spec.name, spec.facts.product):
            with threads(count):
                run_to_the_end(spec, run_dir, record)
        check_written(spec, run_dir)
        write_lineage(spec, record, run_dir)
        checkpoint = digest_checkpoint(run_dir / spec.name / spec.facts.product)
    except BaseException as error:
        seconds = round(time.monotonic() - started, 2)
        with contextlib.suppress(OSError):  # on a full disk; a stage recorded as "running" resumes too
            record.update("stages", spec.name, status=ended(error), error=redact_text(repr(error)), seconds=seconds)
        raise
    # A resumed stage counts the seconds of its earlier attempts too.
    seconds = max(round(time.monotonic() - started, 2), result_seconds(run_dir / spec.name))
    digest = stage_digest(step.recipe_digest, parents, checkpoint)
    record.update("stages", spec.name, status="done", seconds=seconds, checkpoint_digest=checkpoint, digest=digest)
    free_memory()
    return seconds


def result_seconds(stage_dir: Path) -> float:
    """The seconds that a stage reports, all attempts included."""
    return read_json(stage_dir / STAGE_FILE)["seconds"]


def is_written(stage_dir: Path, product: str) -> bool:
    """Whether a stage finished and only its record is missing: stage.json is written last.

    A damaged checkpoint does not count, and loses its stage.json; a missing lineage is no damage, as it is written with
    the record.

    Args:
        product: the folder of what the stage writes.
    """
    stage_file = stage_dir / STAGE_FILE
    found = damage(stage_dir / product) if stage_file.exists() else []
    if any(not problem.startswith(LINEAGE) for problem in found):
        stage_file.unlink()
    return stage_file.exists()


def check_written(spec: StageSpec, run_dir: Path) -> None:
    """Raise if a stage returned without its files, which is a defect of the stage."""
    for name in (f"{spec.facts.product}/{MANIFEST}", STAGE_FILE):
        if not (run_dir / spec.name / name).exists():
            raise RuntimeError(f"the stage {spec.name} ended without writing {run_dir / spec.name / name}")


def check_replaceable(steps: Sequence[Step], record: RunRecord, run_dir: Path) -> None:
    """Raise, before anything runs, if a stage's folder holds files of something other than a stage."""
    errors: list[UserError] = []
    parents = {step.spec.name: [*(step.spec.parents | step.spec.outside).values()] for step in steps if step.runs}
    for step in steps:
        folder = run_dir / step.spec.name
        with gathered(errors):
            if step.runs:
                check_apart(step.spec, folder)
                check_no_ancestor(step.spec, folder, record.ancestors(step.spec.name, parents))
            is_stage = step.spec.name in record.stages or (folder / STAGE_FILE).exists()
            occupied = folder.is_file() or holds_results(folder)
            if step.runs and occupied and not is_stage:
                raise UserError(
                    f"{folder} holds files that are not those of a stage, and is left alone",
                    got=", ".join(sorted(path.name for path in folder.iterdir())[:5]) if folder.is_dir() else "a file",
                    expected=f"a new or empty folder, or one with {STAGE_FILE}",
                    fix="choose another --output_dir",
                )
    raise_all(errors)


def check_apart(spec: StageSpec, folder: Path) -> None:
    """Raise if a stage would move a parent aside with its own folder, or write into a parent's checkpoint."""
    own = folder.resolve()
    outside = {key: Path(name).expanduser().resolve() for key, name in spec.outside.items() if is_path(name)}
    for key, parent in outside.items():
        if parent == own or own in parent.parents or parent in own.parents:
            raise UserError(
                f"{key} and the stage's own folder lie in each other",
                got=f"{parent}, and {own}",
                expected="two separate folders: a stage's folder is moved aside before it runs again",
                fix="choose another --output_dir",
            )


def check_no_ancestor(spec: StageSpec, folder: Path, ancestors: set[str]) -> None:
    """Raise if a stage would take the place of a stage that its own parent was trained from."""
    if spec.name in ancestors:
        raise UserError(
            f"{folder} is a stage that the parent of this stage was trained from, and would be replaced",
            got=f"{', '.join((spec.parents | spec.outside).values())}, trained from {spec.name}",
            expected="a stage's result under a name of its own",
            fix=f"--output_dir {folder}-2",
        )


def evaluate_stage(jobs: Sequence[EvalJob], record: RunRecord, run_dir: Path, harness: Harness) -> list[Done]:
    """Run the evaluations of a stage or of the base, except those whose checkpoint and suite are unchanged."""
    current = [job.name for job in jobs if up_to_date(job, record, run_dir)]
    pending = [job for job in jobs if job.name not in current]
    if current:
        say(f"{jobs[0].stage}: evaluations up to date, skipped (checkpoint and suite unchanged): {', '.join(current)}")
    if pending:
        run_jobs(pending, record, run_dir, harness, say)
        free_memory()
    return [
        Done(f"  {job.name}", "done", record.evals[job.name]["seconds"], peak_memory())
        if job in pending
        else Done(f"  {job.name}", "up to date")
        for job in jobs
    ]


def peak_memory() -> float:
    """Peak GB that torch allocated on the GPU, else the peak resident size.

    Each stage resets the GPU's count, so that it covers the stage and its evaluations.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def summary(pipeline: Pipeline, done: Sequence[Done], seconds: float, report: Path | None) -> str:
    """The closing summary: a row per stage and evaluation, and the totals."""
    rows = [(line.name, line.result, "" if line.seconds is None else duration(line.seconds)) for line in done]
    peak = max([peak_memory(), *(line.memory for line in done if line.memory is not None)])
    closing = f"{pipeline.name}: {duration(seconds)}, peak memory {peak:.1f} GB, in {pipeline.run_dir}"
    return "\n".join(
        ["", table(("STAGE", "RESULT", "TIME"), rows), "", closing, *([f"report: {report}"] if report else [])]
    )


def say(text: str) -> None:
    print(text, flush=True)
