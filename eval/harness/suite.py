"""Find and load eval suites: the project's own, a user's YAML or question file or folder, or lm-eval's own tasks.

A suite is lm-eval YAML. A folder holds `plain.yaml` and `chat.yaml` if the formats differ (a folder with only one of
the files has only that format), `suite.yaml` or any number of task files for both formats, or `packaged.yaml`, which
names tasks that lm-eval packages (eval/harness/packaged.py). A file of questions (JSONL, JSON, CSV, ...) is also a
suite (eval/harness/question_file.py).

Options follow the name as a query: `gsm8k?data=FILE&num_fewshot=0`. Every suite takes `num_fewshot`, `max_gen_toks` and
`calibration`; other options belong to the suite.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from alignment.errors import UserError, did_you_mean, raise_all, unknown
from alignment.name_options import read_options, split_name
from eval.conditions.eval_options import require_options
from eval.suite_rows.row_checks import require_usable_rows, rows_checked
from eval.suite_rows.task_settings import require_usable_settings

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

SUITES = Path(__file__).parents[1] / "suites"
FORMATS = ("plain", "chat")
YAML_FILES = ("plain.yaml", "suite.yaml", "packaged.yaml")
QUESTIONS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
SUITE_FILES = (".yaml", *QUESTIONS)
FILE_READERS = "eval.suite_rows."  # modules whose functions read files: the digest is of the rows that they return
OPTIONS = {"data": str, "num_fewshot": int, "max_gen_toks": int, "calibration": bool}  # every suite has them
BUILT_IN = "lm_eval:"  # prefix of lm-eval's own tasks: scanning its YAML files takes 15 seconds


@dataclass(frozen=True)
class Suite:
    """A loaded suite.

    Attributes:
        name: short name, used in paths and tables.
        tasks: task name -> lm-eval task.
        groups: group name -> lm-eval group.
        calibration: whether multiple-choice tasks get a Brier score and an expected calibration error.
        centred: task -> its metric in the suite's centred average; empty without such an average.
    """

    name: str
    tasks: dict[str, Task]
    groups: dict[str, Group]
    calibration: bool = False
    centred: dict[str, str] = field(default_factory=dict)


def list_suites() -> list[str]:
    """Names of the project's own suites."""
    return sorted({path.parent.name for file in YAML_FILES for path in SUITES.glob(f"*/{file}")})


def parse_suite(spec: str) -> tuple[str, dict]:
    """Parse `gsm8k?data=FILE&num_fewshot=0` into a suite's name or path and its options.

    Raises:
        UserError: an option without a value, or with a value of a wrong type.
    """
    # os.path.exists is false for a name that is too long for a file; Path.exists raises.
    name, query = (spec, None) if os.path.exists(spec) else split_name(spec)
    options = read_options(query or "", f"the suite {name}", OPTIONS, others_allowed=True)
    if options.get("data") == "":
        raise UserError(f"The option data of the suite {name} has no value.", got="data=", expected="data=FILE")
    return name, options


def suite_name(spec: str) -> str:
    """Short name of a suite given as a name, a path or `lm_eval:TASK`; options are appended: `text-input`."""
    name, options = parse_suite(spec)
    path = Path(name).resolve()
    if name.startswith(BUILT_IN):
        name = name.removeprefix(BUILT_IN)
    elif name not in list_suites():
        name = path.stem if path.is_file() else path.name
    options.pop("columns", None)  # how a file is read: its rows and their digest show it
    data = Path(options.pop("data", name)).stem
    words = [data] if "?" in spec and data != Path(name).stem else []
    words += [f"{key}-{value}" for key, value in options.items()]
    return "-".join([name, *(re.sub(r"[^\w.-]+", "_", word) for word in words)])


def suite_formats(spec: str) -> tuple[str, ...]:
    """The formats of a suite.

    Raises:
        UserError: there is no such suite.
    """
    path = _path(parse_suite(spec)[0])
    if path is None or path.is_file():
        return FORMATS
    if (path / "packaged.yaml").exists():
        return tuple(_packaged(path).get("formats", FORMATS))
    return tuple(name for name in FORMATS if (path / f"{name}.yaml").exists()) or FORMATS


def require_format(spec: str, format: str) -> None:
    """Raise a UserError if a suite lacks a format."""
    known = suite_formats(spec)
    if format not in known:
        raise UserError(f"Suite {spec!r} cannot be run in this format.", got=format, expected=" or ".join(known))


def load_suite(spec: str, format: str, *, num_fewshot: int | None = None, suite_args: dict | None = None) -> Suite:
    """Load a suite's tasks and their data.

    Args:
        spec: name of one of the project's suites, path of a YAML or question file or a folder, or `lm_eval:TASK`;
            with options as a query.
        format: plain or chat.
        num_fewshot: examples before each item; None for the suite's own number. Tasks that set 0 keep it.
        suite_args: further options. Options of the suite itself are passed to its `custom_dataset` function as the
            keyword `suite_args`.

    Raises:
        UserError: no such suite, no such format, or a suite that lm-eval cannot load.
    """
    name, options = parse_suite(spec)
    path = _path(name)
    require_format(spec, format)
    options = (suite_args or {}) | options
    num_fewshot = options.pop("num_fewshot", num_fewshot)
    max_gen_toks, calibration = options.pop("max_gen_toks", None), options.pop("calibration", False)
    require_options(num_fewshot=num_fewshot, max_gen_toks=max_gen_toks)
    try:
        with quiet_lm_eval(), rows_checked():
            loaded = _load(name, path, format, options)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a suite's files are code and settings of its author
        raise UserError(
            f"Suite {spec!r} could not be loaded.",
            got=f"{type(error).__name__}: {error}",
            expected="lm-eval task YAML whose files and functions exist, and suite_args that the suite knows",
        ) from error
    if not loaded["tasks"]:
        raise UserError(f"Suite {spec!r} has no tasks.", got=path or name, expected="a folder with lm-eval task YAML")
    with quiet_lm_eval():
        for task in loaded["tasks"].values():
            _require_metrics(task)
            _set_up(task, num_fewshot, max_gen_toks)
            require_usable_settings(task)
            require_usable_rows(task)
    centred = _packaged(path).get("centred", {}) if path else {}
    return Suite(suite_name(spec), loaded["tasks"], loaded.get("groups", {}), bool(calibration), centred)


def item_texts(spec: str) -> list[str]:
    """The distinct texts of a suite's items in all of its formats, to keep them out of training data.

    An item's text is its prompt (lm-eval's `doc_to_decontamination_query` if the task has one); without a single
    prompt, its choices; otherwise its target.
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
    """SHA-256 of everything that defines the measurement: task settings, source files of their functions, data rows."""
    digest = hashlib.sha256()
    for name, task in sorted(suite.tasks.items()):
        settings = task.config.to_dict(keep_callable=True)
        for key in ("metadata", "dataset_path", "dataset_name", "dataset_kwargs"):
            settings.pop(key, None)  # the place of the data: the digest is of the rows themselves
        if getattr(settings.get("custom_dataset"), "__module__", "").startswith(FILE_READERS):
            del settings["custom_dataset"]
        digest.update(json.dumps([name, settings], sort_keys=True, default=_source).encode())
        rows = [task.eval_docs, task.fewshot_docs() if task.config.num_fewshot else []]
        for row in (row for docs in rows for row in (docs.to_list() if hasattr(docs, "to_list") else docs)):
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Silence lm-eval, and compile each prompt template once instead of once per item.

    Silenced are lm-eval's warnings about its arguments and its progress bars over prompts, and the tokenizer's warning
    about long texts, which are scored in windows.
    """
    from lm_eval import utils

    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers.tokenization_utils_base")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        compiled = lru_cache(utils.env.from_string)
        with (
            mock.patch("lm_eval.api.task.tqdm", lambda rows, **_: rows),
            mock.patch.object(utils.env, "from_string", compiled),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _path(name: str) -> Path | None:
    """The file or folder of a suite; None for lm-eval's own tasks."""
    if name.startswith(BUILT_IN):
        return None
    if name in list_suites():
        return SUITES / name
    if os.path.exists(name):
        return Path(name).resolve()
    folder = Path(name).parent
    near = [path for path in folder.glob("*") if path.suffix in SUITE_FILES] if os.path.isdir(folder) else []
    raise UserError(
        "No such eval suite.",
        got=name,
        expected=f"one of {', '.join(list_suites())}, the path of a YAML or question file or folder, or {BUILT_IN}TASK",
        fix=did_you_mean(name, [*list_suites(), *map(str, near)]),
    )


def is_file_of_rows(name: str) -> bool:
    """Whether a suite's name is the path of a file of questions or conversations."""
    from alignment.data.reading.opening import extension_of

    return name not in list_suites() and os.path.isfile(name) and extension_of(Path(name)) in QUESTIONS


def _packaged(path: Path) -> dict:
    """The content of a folder's `packaged.yaml`; empty if there is no such file."""
    from alignment.yaml_text import parse_yaml

    file = path / "packaged.yaml"
    return parse_yaml(file.read_text(encoding="utf-8"), str(file)) if file.is_file() else {}


def _load(name: str, path: Path | None, format: str, options: dict) -> dict:
    """Load lm-eval's {tasks, groups}: packaged tasks, one file, or all files of a folder."""
    from lm_eval.tasks import TaskManager

    from eval.harness.packaged import load_packaged

    if path is None:
        data = options.pop("data", None)
        return load_packaged([name.removeprefix(BUILT_IN)], None, data, {"suite_args": options})
    if packaged := _packaged(path):
        data = options.pop("data", None)
        _require_no_options(name, options)
        metadata: dict = {"suite_args": options}
        return load_packaged(packaged["tasks"], packaged.get("folders"), data, metadata, packaged.get("template"))
    if is_file_of_rows(str(path)):
        from eval.harness.question_file import question_task

        match, columns = options.pop("match", None), options.pop("columns", None)
        _require_no_options(name, options, ("match", "columns"))
        task = question_task(path, format, match, columns)
        return {"tasks": {task.task_name: task}}
    folder, file = (path, path / f"{format}.yaml") if path.is_dir() else (path.parent, path)
    file = file if file.exists() else folder / "suite.yaml"
    try:
        manager = TaskManager(include_path=folder, include_defaults=False, metadata={"suite_args": options})
    except TypeError:  # lm-eval sorts the names of all files of the folder
        _require_names(folder)
        raise
    if not file.exists():
        return manager.load(manager.all_groups or manager.all_subtasks)
    defined = _defined_name(file)
    # The other format's file defines the same name, and lm-eval's own loading by path mistakes a group for its tasks.
    manager.task_index[defined].yaml_path = file
    return manager.load([defined])


def _require_names(folder: Path) -> None:
    """Raise for the files of a folder in which a task's or group's name is not text, such as `task: 5`."""
    from lm_eval.tasks._index import TaskIndex

    index = TaskIndex().build([folder], resolve_includes=False)
    raise_all(
        [
            UserError(f"{entry.yaml_path} has a name that is not text.", got=name, fix=f'write it as text: "{name}"')
            for name, entry in index.items()
            if not isinstance(name, str)
        ]
    )


def _require_no_options(name: str, options: dict, own: tuple[str, ...] = ()) -> None:
    known = [key for key in (*own, *OPTIONS) if key not in options]  # a file of rows takes no `data`
    raise_all([unknown(f"option of the suite {name}", key, known) for key in options])


def _set_up(task: Task, num_fewshot: int | None, max_gen_toks: int | None) -> None:
    """Apply the options of every suite to a task, and a sampler whose few-shot examples never include the item."""
    from eval.harness.examples import CleanSampler

    if num_fewshot is not None and task.config.num_fewshot != 0:
        task.set_config("num_fewshot", num_fewshot)
    if max_gen_toks is not None and task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", {"max_gen_toks": max_gen_toks}, update=True)
    if task.config.num_fewshot:
        if not (task.has_training_docs() or task.has_validation_docs() or task.fewshot_cfg.samples):
            # The examples are items: with a split, lm-eval passes the current item to the sampler.
            task.fewshot_cfg.split = task.fewshot_cfg.split or task.config.test_split
        task.sampler = CleanSampler(task)
        task.sampler.require(task.config.num_fewshot, among_items=task.fewshot_cfg.split == task.config.test_split)


def _defined_name(file: Path) -> str:
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(file, resolve_func=False)
    name = config.get("group") or config.get("task")
    if file.suffix != ".yaml" or not isinstance(name, str):
        raise UserError(
            "Not an lm-eval suite.",
            got=file,
            expected="a .yaml file with a `task:` name, or a `group:` name and its tasks",
        )
    return name


def _require_metrics(task: Task) -> None:
    """Raise for an unknown metric, which lm-eval would turn into None and fail on much later."""
    from lm_eval.api.registry import METRIC_REGISTRY

    for metric in task.config.metric_list or []:
        name = metric["metric"]
        known = callable(name) or name in METRIC_REGISTRY or metric.get("hf_evaluate") or task.config.process_results
        if not known:
            raise UserError(
                f"Task {task.task_name!r} has an unknown metric.",
                got=name,
                expected=", ".join(sorted(METRIC_REGISTRY)),
                fix="use one of these, or a `process_results: !function` that returns the metric",
            )


def _source(value: object) -> str:
    """A function's contribution to the digest: the text of its file."""
    file = inspect.getsourcefile(value) if callable(value) else None
    return Path(file).read_text(encoding="utf-8") if file else repr(value)
