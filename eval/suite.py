"""Finding and loading eval suites: the project's own, a user's YAML file or folder, or lm-eval's built-in tasks.

A suite is lm-eval YAML. A folder holds `plain.yaml` and `chat.yaml` where the formats differ (a folder with only one of
them can be run in that format alone), else any number of task files for both formats.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from alignment.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

SUITES = Path(__file__).parent / "suites"
FORMATS = ("plain", "chat")
BUILT_IN = "lm_eval:"  # built-in tasks are asked for by this prefix: scanning lm-eval's YAML files takes 15 seconds


@dataclass(frozen=True)
class Suite:
    """A loaded suite.

    Attributes:
        name: short name, used in paths and tables.
        tasks: task name -> lm-eval task.
        groups: group name -> lm-eval group.
    """

    name: str
    tasks: dict[str, Task]
    groups: dict[str, Group]


def list_suites() -> list[str]:
    """Names of the project's own suites."""
    return sorted(path.parent.name for path in SUITES.glob("*/plain.yaml"))


def suite_name(spec: str) -> str:
    """Short name of a suite given as a name, a path or `lm_eval:TASK`."""
    if spec.startswith(BUILT_IN):
        return spec.removeprefix(BUILT_IN)
    path = Path(spec).resolve()
    return spec if spec in list_suites() else path.stem if path.is_file() else path.name


def suite_formats(spec: str) -> tuple[str, ...]:
    """The formats that a suite can be run in.

    Raises:
        UserError: there is no such suite.
    """
    path = _path(spec)
    if path is None or path.is_file():
        return FORMATS
    return tuple(name for name in FORMATS if (path / f"{name}.yaml").exists()) or FORMATS


def require_format(spec: str, format: str) -> None:
    """Raise a UserError where a suite cannot be run in a format."""
    known = suite_formats(spec)
    if format not in known:
        raise UserError(f"Suite {spec!r} cannot be run in this format.", got=format, needed=" or ".join(known))


def load_suite(spec: str, format: str, *, num_fewshot: int | None = None, suite_args: dict | None = None) -> Suite:
    """Load a suite's tasks and their data.

    Args:
        spec: name of one of the project's suites, path of a YAML file or folder, or `lm_eval:TASK`.
        format: plain or chat.
        num_fewshot: examples before each item; None for the suite's own number. Left alone where a task says 0.
        suite_args: given to the suite's `custom_dataset` function as the keyword `suite_args`.

    Raises:
        UserError: no such suite, no such format, or a suite that lm-eval cannot load.
    """
    import yaml

    path = _path(spec)
    require_format(spec, format)
    try:
        with quiet_lm_eval():
            loaded = _load(spec, path, format, suite_args or {})
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError, yaml.YAMLError) as error:
        raise UserError(
            f"Suite {spec!r} could not be loaded.",
            got=f"{type(error).__name__}: {error}",
            needed="lm-eval task YAML whose files and functions exist, and suite_args that it knows",
        ) from error
    for task in loaded["tasks"].values():
        _require_metrics(task)
        if num_fewshot is not None and task.config.num_fewshot != 0:
            task.set_config("num_fewshot", num_fewshot)
    return Suite(suite_name(spec), loaded["tasks"], loaded.get("groups", {}))


def item_texts(spec: str) -> list[str]:
    """What a suite's items ask, in every format that it has, each text once: to keep it out of training data.

    An item's text is its prompt (lm-eval's `doc_to_decontamination_query` where the task has one); where it has no
    prompt or several, its choices, or else its target.
    """
    suites = [load_suite(spec, format) for format in suite_formats(spec)]
    docs = ((task, doc) for suite in suites for task in suite.tasks.values() for doc in task.eval_docs)
    return list(dict.fromkeys(text for task, doc in docs for text in _texts_of_item(task, doc)))


def _texts_of_item(task: Task, doc: dict) -> list[str]:
    text = task.doc_to_decontamination_query(doc) if task.should_decontaminate() else task.doc_to_text(doc)
    if isinstance(text, str) and text.strip():
        return [text]
    return list(task.doc_to_choice(doc)) if task.config.doc_to_choice else [str(task.doc_to_target(doc))]


def suite_digest(suite: Suite) -> str:
    """SHA-256 of all that defines the measurement: task settings, the files of their functions, and the data rows."""
    digest = hashlib.sha256()
    for name, task in sorted(suite.tasks.items()):
        settings = task.config.to_dict(keep_callable=True)
        settings.pop("metadata", None)  # holds the path of the YAML file
        digest.update(json.dumps([name, settings], sort_keys=True, default=_source).encode())
        rows = [task.eval_docs, task.fewshot_docs() if task.config.num_fewshot else []]
        for row in (row for docs in rows for row in docs):
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Without lm-eval's warnings about how it is called, the tokenizer's about texts that are scored in windows, and
    lm-eval's progress bar for each task's prompts."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers.tokenization_utils_base")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with mock.patch("lm_eval.api.task.tqdm", lambda rows, **_: rows):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _path(spec: str) -> Path | None:
    """Where the suite lies; None for lm-eval's own."""
    if spec.startswith(BUILT_IN):
        return None
    if spec in list_suites():
        return SUITES / spec
    if Path(spec).exists():
        return Path(spec).resolve()
    raise UserError(
        "No such eval suite.",
        got=spec,
        needed=f"one of {', '.join(list_suites())}, the path of a YAML file or folder, or {BUILT_IN}TASK",
    )


def _load(spec: str, path: Path | None, format: str, suite_args: dict) -> dict:
    """lm-eval's {tasks, groups}: of a built-in name, of one file, or of all that a folder holds."""
    from lm_eval.tasks import TaskManager

    if path is None:
        return TaskManager(metadata={"suite_args": suite_args}).load([spec.removeprefix(BUILT_IN)])
    folder, file = (path, path / f"{format}.yaml") if path.is_dir() else (path.parent, path)
    manager = TaskManager(include_path=folder, include_defaults=False, metadata={"suite_args": suite_args})
    if not file.exists():
        return manager.load(manager.all_groups or manager.all_subtasks)
    name = _defined_name(file)
    # The other format's file defines the same name, and lm-eval's own loading by path mistakes a group for its tasks.
    manager.task_index[name].yaml_path = file
    return manager.load([name])


def _defined_name(file: Path) -> str:
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(file, resolve_func=False)
    name = config.get("group") or config.get("task")
    if file.suffix != ".yaml" or not isinstance(name, str):
        raise UserError(
            "Not an lm-eval suite.",
            got=file,
            needed="a .yaml file with a `task:` name, or a `group:` name and its tasks",
        )
    return name


def _require_metrics(task: Task) -> None:
    """lm-eval turns an unknown metric into None and fails much later."""
    from lm_eval.api.registry import METRIC_REGISTRY

    for metric in task.config.metric_list or []:
        name = metric["metric"]
        known = callable(name) or name in METRIC_REGISTRY or metric.get("hf_evaluate") or task.config.process_results
        if not known:
            raise UserError(
                f"Task {task.task_name!r} names an unknown metric.",
                got=name,
                needed=", ".join(sorted(METRIC_REGISTRY)),
                mend="or give a `process_results: !function` that returns it",
            )


def _source(value: object) -> str:
    """What stands for a function in the digest: the text of its file."""
    file = inspect.getsourcefile(value) if callable(value) else None
    return Path(file).read_text(encoding="utf-8") if file else repr(value)
