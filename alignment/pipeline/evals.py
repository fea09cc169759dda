"""The evaluations of a pipeline: which there are after a stage, which of them are up to date, and running one."""

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import UserError, raise_all
from alignment.pipeline.digest import digest_value
from alignment.pipeline.graph import EvalSpec, Pipeline
from alignment.pipeline.recipe import gathered, nearest
from alignment.pipeline.record import RunRecord


@dataclass(frozen=True)
class Harness:
    """How a checkpoint is evaluated (eval.runner.evaluate) and what tells a suite from its earlier self."""

    evaluate: Callable[..., Any]
    suite_digest: Callable[[str], str]


@dataclass(frozen=True)
class EvalJob:
    """One suite in one format on one stage's checkpoint."""

    stage: str
    parent: str | None
    suite: str
    format: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.suite}-{self.format}"


def default_harness() -> Harness:
    from eval.runner import evaluate
    from eval.suites import suite_digest

    return Harness(evaluate, suite_digest)


def jobs_after(pipeline: Pipeline, stage: str) -> list[EvalJob]:
    """The evaluations that follow a stage."""
    evals = pipeline.evals
    if stage not in evals.stages:
        return []
    spec = next(spec for spec in pipeline.stages if spec.name == stage)
    parent = spec.parents.get("model_name_or_path")
    options = {"seed": pipeline.seed} | evals.options
    return [EvalJob(stage, parent, suite, format, options) for suite in evals.suites for format in evals.formats]


def check_evals(evals: EvalSpec, harness: Harness, source: str) -> None:
    """Raise for suites that there are not, and for options that the evaluation does not take."""
    errors: list[UserError] = []
    for suite in evals.suites:
        with gathered(errors):
            harness.suite_digest(suite)
    valid = [
        parameter.name
        for parameter in inspect.signature(harness.evaluate).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in ("stage", "parent")
    ]
    errors += [
        UserError(f"{source}: unknown key 'evals.{key}'", mend=nearest(key, ["suites", "stages", "formats", *valid]))
        for key in evals.options
        if key not in valid
    ]
    raise_all(errors)


def job_digest(job: EvalJob, record: RunRecord, harness: Harness) -> str:
    """What an evaluation's result hangs on: the weights, the suite, and how it is run."""
    checkpoint = record.stages[job.stage]["checkpoint_digest"]
    return digest_value([checkpoint, harness.suite_digest(job.suite), job.format, job.options])


def up_to_date(job: EvalJob, record: RunRecord, run_dir: Path, harness: Harness) -> bool:
    entry = record.evals.get(job.name, {})
    written = (run_dir / "evals" / job.name / "run.json").exists()
    return written and entry.get("status") == "done" and entry["digest"] == job_digest(job, record, harness)


def run_job(job: EvalJob, record: RunRecord, run_dir: Path, harness: Harness) -> None:
    """Evaluate, and write down how it ended."""
    record.replace("evals", job.name, status="running", digest=job_digest(job, record, harness))
    started = time.monotonic()
    try:
        harness.evaluate(
            str(run_dir / job.stage / "checkpoint"),
            job.suite,
            job.format,
            str(run_dir / "evals" / job.name),
            stage=job.stage,
            parent=job.parent,
            **job.options,
        )
    except BaseException as error:
        record.update("evals", job.name, status="failed", error=repr(error))
        raise
    record.update("evals", job.name, status="done", seconds=round(time.monotonic() - started, 2))
