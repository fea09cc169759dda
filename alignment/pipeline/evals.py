"""The evaluations of a pipeline: the list, which of them are up to date, and running them."""

import contextlib
import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alignment.durable.atomic import disk_full_explained
from alignment.durable.manifest import digests
from alignment.errors import UserError, gathered, raise_all, suggestion
from alignment.pipeline.graph import Pipeline, outside_model
from alignment.pipeline.recipes.pipeline_file import BASE
from alignment.pipeline.records.record import RunRecord
from alignment.pipeline.stopping import ended
from alignment.redaction import redact_text
from alignment.stages import DATA
from eval.conditions.eval_options import require_options
from eval.harness.store import is_whole, run_name

OWN_KEYS = ("suites", "stages", "formats", "extra", "base", "headline", "samples", "pareto")
SET_BY_JOB = ("stage", "parent", "variant", "loaded")
TEMPLATE_FILE = "chat_template.jinja"
MODEL = "model_name_or_path"  # the recipe key of the model that a stage starts from


class Harness:
    """The part of the package `eval` that a pipeline uses; `eval` is imported when there is something to evaluate."""

    def options(self) -> list[str]:
        """The keyword arguments of an evaluation that pipeline.yaml may set."""
        from eval.harness.run_suite import evaluate

        parameters = inspect.signature(evaluate).parameters.values()
        return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in SET_BY_JOB]

    def formats(self, suite: str) -> Sequence[str]:
        """The formats that a suite supports."""
        from eval.harness.suite import suite_formats

        return suite_formats(suite)

    def name(self, suite: str) -> str:
        from eval.harness.suite import suite_name

        return suite_name(suite)

    def tasks(self, suite: str, format: str, options: dict[str, Any]) -> list[str]:
        """Names of a suite's tasks and groups, as the figures of its eval runs have them."""
        from eval.harness.items import short_name
        from eval.harness.suite import load_suite

        loaded = load_suite(suite, format, **_loading(options))
        return [short_name(name) for name in (*loaded.groups, *loaded.tasks)]

    def digest(self, suite: str, format: str, options: dict[str, Any]) -> str:
        """A digest of everything that a suite's results depend on; loads the suite, and raises if that fails."""
        from eval.harness.suite import load_suite, suite_digest

        return suite_digest(load_suite(suite, format, **_loading(options)))

    def load(self, checkpoint: str) -> Any:
        from eval.harness.run_suite import load_checkpoint

        return load_checkpoint(checkpoint)

    def evaluate(self, *arguments: Any, **options: Any) -> None:
        from eval.harness.run_suite import evaluate

        evaluate(*arguments, **options)


def _loading(options: dict[str, Any]) -> dict[str, Any]:
    """The options of an evaluation that apply when its suite is loaded."""
    return {key: options[key] for key in ("num_fewshot", "suite_args") if key in options}


@dataclass(frozen=True)
class EvalJob:
    """One suite in one format on a stage's checkpoint, or on the base: the model that the first stage starts from.

    Attributes:
        stage: the stage, or BASE.
        base: path or hub id of that model; None for a stage.
        after: the stage after which it runs: the one evaluated, or for BASE the one that starts from it.
        variant: options that the suite's other evaluations do not have.
    """

    name: str
    stage: str
    parent: str | None
    suite: str
    format: str
    suite_digest: str
    options: dict[str, Any]
    variant: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    after: str = ""


def make_jobs(pipeline: Pipeline, harness: Harness, source: str) -> list[EvalJob]:
    """Every evaluation of a pipeline, in order.

    Args:
        source: the path of pipeline.yaml, for messages.

    Raises:
        UserError: all mistakes in suites and options together.
    """
    evals = pipeline.evals
    if not (evals.suites and evals.stages):
        return []
    valid = harness.options()
    errors = [
        UserError(f"{source}: unknown key 'evals.{key}'", fix=suggestion(key, [*OWN_KEYS, *valid]))
        for key in evals.options
        if key not in valid
    ]
    options = {"seed": pipeline.seed} | evals.options
    for given in (options, *evals.extra):
        with gathered(errors):
            require_options(**given)
    runs = []
    for suite in [] if errors else evals.suites:
        with gathered(errors):
            formats = [format for format in evals.formats if format in harness.formats(suite)]
            runs += [(suite, format, harness.digest(suite, format, options)) for format in formats]
            if formats and suite in evals.report.headline:
                _require_task(evals.report.headline[suite], suite, harness.tasks(suite, formats[0], options), source)
    errors += _without_model(pipeline, source)
    raise_all(errors)
    outside = outside_model(pipeline.stages)
    parents = _parents(pipeline, outside)
    jobs = [
        EvalJob(run_name(stage, harness.name(suite), format, {}), stage, parents[stage], suite, format, digest, options)
        for stage in evals.stages
        for suite, format, digest in runs
    ]
    jobs += [extra_job(item, parents, harness, options) for item in evals.extra]
    _require_distinct(jobs, source)
    return [_placed(job, outside) for job in jobs]


def _parents(pipeline: Pipeline, outside: tuple[str, str] | None) -> dict[str, str | None]:
    """Stage -> the stage that its model comes from, and BASE without one."""
    parents = {spec.name: spec.parents.get(MODEL) for spec in pipeline.stages}
    if outside is None:
        return parents
    return {BASE: None} | {
        spec.name: BASE if spec.outside.get(MODEL) == outside[1] else parents[spec.name] for spec in pipeline.stages
    }


def _placed(job: EvalJob, outside: tuple[str, str] | None) -> EvalJob:
    """A job with the stage after which it runs, and the model of BASE."""
    if outside is None or job.stage != BASE:
        return replace(job, after=job.stage)
    return replace(job, after=outside[0], base=os.path.expanduser(outside[1]))


def _without_model(pipeline: Pipeline, source: str) -> list[UserError]:
    """An error for each data stage that is to be evaluated."""
    rows = [spec.name for spec in pipeline.stages if spec.facts.checkpoint == DATA]
    named = [*pipeline.evals.stages, *(item["stage"] for item in pipeline.evals.extra)]
    return [
        UserError(
            f"{source}: evals name a stage that writes rows, not a model",
            got=name,
            fix=f"remove {name} from the evaluated stages",
        )
        for name in dict.fromkeys(named)
        if name in rows
    ]


def _require_distinct(jobs: list[EvalJob], source: str) -> None:
    """Raise if two evaluations would have the same folder: stage sft with suite a-b, and stage sft-a with suite b."""
    names = [job.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"{source}: two evaluations have the same folder",
            got=", ".join(twice),
            fix="list each evaluation once, or rename a stage",
        )


def _require_task(task: str, suite: str, tasks: list[str], source: str) -> None:
    if task not in tasks:
        raise UserError(
            f"{source}: evals.headline names a task that the suite {suite} lacks", got=task, fix=suggestion(task, tasks)
        )


def report_settings(pipeline: Pipeline, harness: Harness) -> dict[str, Any]:
    """The keys of `evals:` that the report reads, with each suite by the name that its eval runs have."""
    given = pipeline.evals.report.given()
    if "headline" in given:
        given["headline"] = {harness.name(suite): task for suite, task in given["headline"].items()}
    if "pareto" in given:
        given["pareto"] = [harness.name(suite) for suite in given["pareto"]]
    if "suite" in given.get("samples", {}):
        given["samples"] |= {"suite": harness.name(given["samples"]["suite"])}
    return given


def extra_job(
    item: dict[str, Any], parents: dict[str, str | None], harness: Harness, options: dict[str, Any]
) -> EvalJob:
    """An evaluation of `evals.extra`, named by its own options: pretrain-tinyworld-plain-num_fewshot-3."""
    stage, suite, format = item["stage"], item["suite"], item["format"]
    own = {key: value for key, value in item.items() if key not in ("stage", "suite", "format")}
    name = run_name(stage, harness.name(suite), format, own)
    merged = options | own
    return EvalJob(name, stage, parents[stage], suite, format, harness.digest(suite, format, merged), merged, own)


def up_to_date(job: EvalJob, record: RunRecord, run_dir: Path) -> bool:
    """Whether the recorded result belongs to the current weights, suite and options."""
    entry = record.evals.get(job.name, {})
    return (
        is_whole(run_dir / "evals" / job.name)
        and entry.get("status") == "done"
        and entry["made_from"] == made_from(job, record, run_dir)
    )


def made_from(job: EvalJob, record: RunRecord, run_dir: Path) -> dict[str, Any]:
    """The digests and options that an evaluation's result depends on."""
    measured = {"suite_digest": job.suite_digest, "options": job.options}
    if job.base is None:
        return {"checkpoint_digest": record.stages[job.stage]["checkpoint_digest"]} | measured
    return {"checkpoint_digest": record.stages[job.after]["parent_digests"][MODEL]} | measured | _asked_in(job, run_dir)


def _asked_in(job: EvalJob, run_dir: Path) -> dict[str, Any]:
    """The digest of the chat template that the base is asked in: that of the stage that starts from it."""
    if job.format != "chat":
        return {}
    return {"chat_template": digests(run_dir / job.after / "checkpoint").get(TEMPLATE_FILE)}


def run_jobs(
    jobs: Sequence[EvalJob], record: RunRecord, run_dir: Path, harness: Harness, say: Callable[[str], None]
) -> None:
    """Run evaluations of one stage's checkpoint or of the base, which is loaded once, and record how each ended."""
    checkpoint = jobs[0].base or str(run_dir / jobs[0].stage / "checkpoint")
    loaded = harness.load(checkpoint)
    for job in jobs:
        say(f"{job.stage}: evaluating {job.suite} ({job.format})")
        record.replace("evals", job.name, status="running", made_from=made_from(job, record, run_dir))
        started = time.monotonic()
        try:
            with disk_full_explained(f"the evaluation {job.name}", run_dir):
                harness.evaluate(
                    checkpoint,
                    job.suite,
                    job.format,
                    str(run_dir / "evals" / job.name),
                    stage=job.stage,
                    parent=job.parent,
                    variant=job.variant,
                    loaded=loaded,
                    **_template(job, run_dir),
                    **job.options,
                )
        except BaseException as error:
            with contextlib.suppress(OSError):  # on a full disk
                record.update("evals", job.name, status=ended(error), error=redact_text(repr(error)))
            raise
        record.update("evals", job.name, status="done", seconds=round(time.monotonic() - started, 2))


def _template(job: EvalJob, run_dir: Path) -> dict[str, str]:
    """The option `chat_template` of a base in chat format, unless the recipe sets it or the stage has no template."""
    place = run_dir / job.after / "checkpoint"
    given = job.base is None or job.format != "chat" or "chat_template" in job.options
    return {} if given or not (place / TEMPLATE_FILE).is_file() else {"chat_template": str(place)}
