"""Refusals of rows that a task cannot use, before a model is loaded.

lm-eval takes the name of a missing column literally, prints null as None, counts a label that is no choice as wrong,
and otherwise fails in the middle of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from alignment.errors import UserError, UserErrors, raise_all
from eval.suite_rows.needed_columns import COLUMN, Needs, needs_of

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

MODEL = "eval.harness.lm"  # what fails there is not the task's
LOCAL_BUILDERS = ("json", "csv", "text", "parquet", "arrow", "pandas")  # of datasets: files of the user
FUNCTIONS = ("custom_dataset", "process_docs", "doc_to_text", "doc_to_target", "doc_to_choice", "process_results")
RAISED = (Exception, SystemExit)  # by code of a task's author, who may also call sys.exit
SHOWN_PROBLEMS = 5
HELP = (
    "rename or add the columns, or write an lm-eval YAML for these rows; docs/suites.md lists the files that are read"
)


@contextmanager
def rows_checked() -> Iterator[None]:
    """Check the columns of each task that lm-eval loads inside, and name a task's function that fails on its rows."""
    from lm_eval.api.task import ConfigurableTask

    loading: list[ConfigurableTask] = []
    original = ConfigurableTask.download

    def download(task: ConfigurableTask, *args: Any, **options: Any) -> None:
        loading[:] = [task]
        original(task, *args, **options)
        if is_local(task):
            _require_columns(task)

    try:
        with mock.patch.object(ConfigurableTask, "download", download):
            yield
    except UserError:
        raise
    except RAISED as error:  # the functions and templates of a task are its author's, and may raise anything
        if loading and (refusal := _refusal(loading[0], error)):
            raise refusal from error
        raise


@contextmanager
def failures_named(tasks: Iterable[ConfigurableTask]) -> Iterator[None]:
    """Name the task and its function, filter or metric if one fails inside, for example on a reply."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except RAISED as error:  # as in `rows_checked`
        failing = ((task, function) for task in tasks if (function := _failing(task, error)))
        if found := next(failing, None):
            raise _failed(*found, error) from error
        if step := _step_of(error):
            raise _unscored(*step, error) from error
        raise


def is_local(task: ConfigurableTask) -> bool:
    """Whether a task's rows are the user's files or come from a function, not from a data set on the hub."""
    path = task.config.dataset_path
    return (
        task.config.custom_dataset is not None or path in LOCAL_BUILDERS or (path is not None and Path(path).is_dir())
    )


def require_usable_rows(task: ConfigurableTask) -> None:
    """Raise if an item of a task, or a few-shot example, has no prompt, no choices or no target to score with.

    Raises:
        UserError: the problems of the first such rows, and their number.
    """
    if not is_local(task):
        return
    problems = list(_problems(task, task.task_docs, "item"))
    if task.config.num_fewshot and task.fewshot_cfg.split not in (None, task.config.test_split):
        problems += _problems(task, task.fewshot_docs(), "few-shot example")
    raise_all(first_problems(problems))


def first_problems(problems: list[UserError]) -> list[UserError]:
    """The problems of the first rows, and the number of the others."""
    left = len(problems) - SHOWN_PROBLEMS
    return problems[:SHOWN_PROBLEMS] + ([UserError(f"... and {left} more such rows")] if left > 0 else [])


def _require_columns(task: ConfigurableTask) -> None:
    """Raise if the rows of a loaded data set lack a column, or have null where a template would print it."""
    config = task.config
    needs = needs_of(vars(config))
    splits = [config.test_split or config.validation_split or config.training_split]
    splits += [config.fewshot_split or (config.training_split if config.num_fewshot else None)]
    for split in dict.fromkeys(filter(None, splits)):
        rows = task.dataset.get(split)
        if rows is None:
            raise UserError(
                f"The rows of task {config.task!r} have no split {split}.",
                got=f"the split(s) {', '.join(task.dataset)}",
                expected=f"{split}, as the task says",
                fix="set test_split in the task's YAML to one of them",
            )
        if not len(rows):
            raise UserError(f"Task {config.task!r} has no rows.", got=f"an empty split {split}", expected="rows")
        if config.process_docs is None and hasattr(rows, "column_names"):
            _require_values(config.task, rows, needs)


def _require_values(task: str, rows: Dataset, needs: Needs) -> None:
    missing = sorted(needs.columns - set(rows.column_names))
    if missing:
        raise _missing(task, missing, rows.column_names, needs)
    for name in sorted(needs.filled):
        nulls = [number for number, value in enumerate(rows[name], 1) if value is None]
        if nulls:
            raise UserError(
                f"Task {task!r} cannot use rows without {name}.",
                got=f"null in {len(nulls)} of {len(rows)} rows, the first is row {nulls[0]}",
                expected=f"a value of {name} in every row",
                fix="fill in or remove these rows",
            )


def _missing(task: str, missing: list[str], columns: list[str], needs: Needs, by: str = "") -> UserError:
    return UserError(
        f"Task {task!r} cannot read its rows: no column {', '.join(missing)}{by}.",
        got=f"columns {', '.join(columns)}",
        expected=f"columns {', '.join(sorted(needs.columns | set(missing)))}",
        fix=HELP,
    )


def _problems(task: ConfigurableTask, docs: Dataset, what: str) -> Iterator[UserError]:
    """Yield the problem of each row that cannot be used."""
    for number, doc in enumerate(docs, 1):
        try:
            problem = _problem_of(task, doc)
        except RAISED as error:  # as in `rows_checked`
            function = _failing(task, error) or "a template"
            problem = f"{function} fails with {type(error).__name__}: {error}"
        if problem:
            yield UserError(f"Task {task.config.task!r}, {what} {number}: {problem}.", got=_shortened(doc))


def _problem_of(task: ConfigurableTask, doc: dict) -> str | None:
    """The problem with a row, found by the task's own functions."""
    text, target = task.doc_to_text(doc), task.doc_to_target(doc)
    scored = not task.config.process_results
    if task.config.doc_to_choice is not None and task.OUTPUT_TYPE == "multiple_choice":
        return _problem_of_choices(doc, task.doc_to_choice(doc), text if task.multiple_input else target, text, scored)
    if not isinstance(text, str):
        return f"its prompt is not text but {_kind(text)}"
    targets = target if isinstance(target, list) else [target]
    if scored and (not targets or any(part is None or not str(part).strip() for part in targets)):
        return "its target is empty"
    return None


def _problem_of_labels(doc: dict) -> str | None:
    """The problem of TruthfulQA's labels, which its tasks' own functions do not look at."""
    for name in ("mc1_targets", "mc2_targets"):
        targets = doc.get(name)
        if not isinstance(targets, dict) or "labels" not in targets:
            continue
        labels, choices = targets["labels"] or [], targets.get("choices") or []
        if len(labels) != len(choices) or not {*labels} <= {0, 1}:
            return f"{name} does not have a label 0 or 1 for each choice"
        if 1 not in labels or (name == "mc1_targets" and labels.count(1) > 1):
            return f"{name} has {labels.count(1)} true answers"
    return None


def _problem_of_choices(doc: dict, choices: Any, target: Any, text: Any, scored: bool) -> str | None:
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        return f"its choices are not a list of texts but {_kind(choices)}"
    if not choices or not all(map(str.strip, choices)):
        return "a choice is empty" if choices else "it has no choices"
    if not isinstance(text, (str, int)):
        return f"its prompt is not text but {_kind(text)}"
    if problem := _problem_of_labels(doc):
        return problem
    if not scored:
        return None
    for part in target if isinstance(target, list) else [target]:
        if not (part in choices if isinstance(part, str) else _is_place(part, len(choices))):
            return f"its target {part!r} is none of the {len(choices)} choices, and not the number of a choice"
    return "it has no target" if target == [] else None


def _is_place(target: Any, count: int) -> bool:
    return isinstance(target, int) and 0 <= target < count


def _kind(value: Any) -> str:
    return f"{type(value).__name__}: {str(value)[:60]}"


def _shortened(doc: dict) -> str:
    return str({key: value if not isinstance(value, str) else value[:60] for key, value in doc.items()})[:300]


def _failing(task: ConfigurableTask, error: BaseException) -> str | None:
    """The task's function or template that raised an error; None if lm-eval raised it elsewhere."""
    import jinja2

    functions = [(name, getattr(task.config, name, None)) for name in FUNCTIONS]
    codes = {_code(function): (name, function) for name, function in functions if callable(function)}
    trace = error.__traceback__
    while trace is not None:
        if found := codes.get(trace.tb_frame.f_code):
            return f"{found[0]} ({getattr(found[1], '__name__', type(found[1]).__name__)})"
        trace = trace.tb_next
    return "a template" if isinstance(error, jinja2.TemplateError) else None


def _code(function: Callable) -> object:
    return getattr(function, "__code__", getattr(type(function).__call__, "__code__", None))


def _refusal(task: ConfigurableTask, error: BaseException) -> UserError | None:
    """The refusal for an error while a task was loaded; None if neither its rows nor its functions are the reason."""
    function, columns = _failing(task, error), _columns(task)
    if function and isinstance(error, KeyError) and columns and _is_missing_column(error.args[0], columns):
        return _missing(
            task.config.task, [str(error.args[0])], columns, needs_of(vars(task.config)), f" for {function}"
        )
    docs = getattr(task, "task_docs", None)  # lm-eval tries the first row when it loads a task
    if docs is not None and is_local(task) and len(docs) == 0:
        return UserError(
            f"Task {task.config.task!r} takes none of its rows.",
            got=f"columns {', '.join(columns)}",
            expected="rows that its process_docs selects",
            fix="check the column by which the task selects its rows",
        )
    problems = list(_problems(task, docs, "item")) if docs is not None and is_local(task) else []
    if problems:
        return UserErrors(first_problems(problems))
    return _failed(task, function, error) if function else None


def _is_missing_column(key: object, columns: list[str]) -> bool:
    """Whether a KeyError is of a column, not of a value such as "3"."""
    return isinstance(key, str) and COLUMN.fullmatch(key) is not None and key not in columns


def _failed(task: ConfigurableTask, function: str, error: BaseException) -> UserError:
    columns = _columns(task)
    return UserError(
        f"Task {task.config.task!r}: {function} failed.",
        got=f"{type(error).__name__}: {error}" + (f"; columns {', '.join(columns)}" if columns else ""),
        expected="rows that the task can read, and functions and templates that read them",
        fix=HELP if columns else "correct the function",
    )


def _step_of(error: BaseException) -> tuple[str, str] | None:
    """(task, step) of lm-eval in which an error was raised; None if the model raised it, or the error is not its."""
    from lm_eval.api.task import Task

    task, step, frame = None, None, error.__traceback__
    while frame is not None:
        module, places = frame.tb_frame.f_globals.get("__name__", ""), frame.tb_frame.f_locals
        if module == MODEL:
            return None
        if module.startswith("lm_eval."):
            step = step or "its replies cannot be scored"
            owners = (places.get("self"), places.get("task"))
            task = next((owner.task_name for owner in owners if isinstance(owner, Task)), task)
        if module.startswith("lm_eval.filters."):
            step = "a filter fails on a reply"
        if frame.tb_frame.f_code.co_name == "_compute_task_aggregations" and "metric" in places:
            step = f"the scores of metric {places['metric']} cannot be aggregated"
        frame = frame.tb_next
    return (task, step) if task and step else None


def _unscored(task: str, step: str, error: BaseException) -> UserError:
    return UserError(
        f"Task {task!r}: {step}.",
        got=f"{type(error).__name__}: {error}",
        expected="filters and metrics for replies of this kind, and rows that they can read",
        fix="correct metric_list, filter_list or process_results in the task's YAML, or the rows",
    )


def _columns(task: ConfigurableTask) -> list[str]:
    parts = (getattr(task, "dataset", None) or {}).values()
    return next((list(part.column_names) for part in parts if hasattr(part, "column_names")), [])
