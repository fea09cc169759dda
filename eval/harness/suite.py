"""Finding and loading eval suites: the project's own, a user's YAML or JSONL file or folder, or lm-eval's own tasks.

A suite is lm-eval YAML. A folder holds `plain.yaml` and `chat.yaml` where the formats differ (a folder with only one of
them can be run in that format alone), `suite.yaml` or any number of task files for both formats, or `packaged.yaml`,
which names tasks that lm-eval packages (eval/harness/packaged.py). A JSONL file of questions is a suite by itself
(eval/harness/question_file.py).

Options follow the name as a query: `gsm8k?data=FILE&num_fewshot=0`. For every suite there are `num_fewshot`,
`max_gen_toks` and `calibration`; the others are the suite's own.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from alignment.errors import UserError, raise_all, unknown
from alignment.name_options import read_options, split_name

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

SUITES = Path(__file__).parents[1] / "suites"
FORMATS = ("plain", "chat")
YAML_FILES = ("plain.yaml", "suite.yaml", "packaged.yaml")
QUESTIONS = ".jsonl"
OPTIONS = {"data": str, "num_fewshot": int, "max_gen_toks": int, "calibration": bool}  # every suite has them
BUILT_IN = "lm_eval:"  # built-in tasks are asked for by this prefix: scanning lm-eval's YAML files takes 15 seconds


@dataclass(frozen=True)
class Suite:
    """A loaded suite.

    Attributes:
        name: short name, used in paths and tables.
        tasks: task name -> lm-eval task.
        groups: group name -> lm-eval group.
        calibration: whether multiple-choice tasks get a Brier score and an expected calibration error.
        centred: task -> the metric that counts in the suite's centred average; empty without such an average.
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
    """Return the name or path of a suite, and its options: `gsm8k?data=FILE&num_fewshot=0`.

    Raises:
        UserError: an option without a value, or with a value of a wrong type.
    """
    name, query = (spec, None) if Path(spec).exists() else split_name(spec)
    return name, read_options(query or "", f"the suite {name}", OPTIONS, others_allowed=True)


def suite_name(spec: str) -> str:
    """Short name of a suite given as a name, a path or `lm_eval:TASK`; options set it apart: `text-input`."""
    name, options = parse_suite(spec)
    path = Path(name).resolve()
    if name.startswith(BUILT_IN):
        name = name.removeprefix(BUILT_IN)
    elif name not in list_suites():
        name = path.stem if path.is_file() else path.name
    data = Path(options.pop("data", name)).stem
    words = [data] if "?" in spec and data != Path(name).stem else []
    words += [f"{key}-{value}" for key, value in options.items()]
    return "-".join([name, *(re.sub(r"[^\w.-]+", "_", word) for word in words)])


def suite_formats(spec: str) -> tuple[str, ...]:
    """The formats that a suite can be run in.

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
    """Raise a UserError where a suite cannot be run in a format."""
    known = suite_formats(spec)
    if format not in known:
        raise UserError(f"Suite {spec!r} cannot be run in this format.", got=format, expected=" or ".join(known))


def load_suite(spec: str, format: str, *, num_fewshot: int | None = None, suite_args: dict | None = None) -> Suite:
    """Load a suite's tasks and their data.

    Args:
        spec: name of one of the project's suites, path of a YAML or JSONL file or a folder, or `lm_eval:TASK`; with
            options as a query.
        format: plain or chat.
        num_fewshot: examples before each item; None for the suite's own number. Left alone where a task says 0.
        suite_args: further options. Those that are not for every suite are given to the suite's `custom_dataset`
            function as the keyword `suite_args`.

    Raises:
        UserError: no such suite, no such format, or a suite that lm-eval cannot load.
    """
    import yaml

    name, options = parse_suite(spec)
    path = _path(name)
    require_format(spec, format)
    options = (suite_args or {}) | options
    num_fewshot = options.pop("num_fewshot", num_fewshot)
    max_gen_toks, calibration = options.pop("max_gen_toks", None), options.pop("calibration", False)
    try:
        with quiet_lm_eval():
            loaded = _load(name, path, format, options)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError, yaml.YAMLError) as error:
        raise UserError(
            f"Suite {spec!r} could not be loaded.",
            got=f"{type(error).__name__}: {error}",
            expected="lm-eval task YAML whose files and functions exist, and suite_args that it knows",
        ) from error
    for task in loaded["tasks"].values():
        _require_metrics(task)
        _set_up(task, num_fewshot, max_gen_toks)
    centred = _packaged(path).get("centred", {}) if path else {}
    return Suite(suite_name(spec), loaded["tasks"], loaded.get("groups", {}), bool(calibration), centred)


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
        for key in ("metadata", "dataset_path", "dataset_name", "dataset_kwargs"):
            settings.pop(key, None)  # where settings and rows come from: the rows themselves are what counts
        digest.update(json.dumps([name, settings], sort_keys=True, default=_source).encode())
        rows = [task.eval_docs, task.fewshot_docs() if task.config.num_fewshot else []]
        for row in (row for docs in rows for row in (docs.to_list() if hasattr(docs, "to_list") else docs)):
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Without lm-eval's warnings about how it is called, the tokenizer's about texts that are scored in windows, and
    lm-eval's progress bar for each task's prompts; and with each prompt template compiled once, not for every item."""
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
    """Where the suite lies; None for lm-eval's own."""
    if name.startswith(BUILT_IN):
        return None
    if name in list_suites():
        return SUITES / name
    if Path(name).exists():
        return Path(name).resolve()
    raise UserError(
        "No such eval suite.",
        got=name,
        expected=f"one of {', '.join(list_suites())}, the path of a YAML or JSONL file or a folder, or {BUILT_IN}TASK",
    )


def _packaged(path: Path) -> dict:
    """What a folder's `packaged.yaml` says; nothing where there is none."""
    import yaml

    file = path / "packaged.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _load(name: str, path: Path | None, format: str, options: dict) -> dict:
    """lm-eval's {tasks, groups}: of packaged tasks, of one file, or of all that a folder holds."""
    from lm_eval.tasks import TaskManager

    from eval.harness.packaged import load_packaged

    packaged = _packaged(path) if path else {"tasks": [name.removeprefix(BUILT_IN)]}
    if packaged:
        data = options.pop("data", None)
        if path:
            _require_no_options(name, options)
        metadata = {"suite_args": options}
        return load_packaged(packaged["tasks"], packaged.get("folders"), data, metadata, packaged.get("template"))
    if path.suffix == QUESTIONS:
        from eval.harness.question_file import question_task

        _require_no_options(name, options)
        return TaskManager(include_defaults=False).load([question_task(path, format)])
    folder, file = (path, path / f"{format}.yaml") if path.is_dir() else (path.parent, path)
    file = file if file.exists() else folder / "suite.yaml"
    manager = TaskManager(include_path=folder, include_defaults=False, metadata={"suite_args": options})
    if not file.exists():
        return manager.load(manager.all_groups or manager.all_subtasks)
    defined = _defined_name(file)
    # The other format's file defines the same name, and lm-eval's own loading by path mistakes a group for its tasks.
    manager.task_index[defined].yaml_path = file
    return manager.load([defined])


def _require_no_options(name: str, options: dict) -> None:
    known = [key for key in OPTIONS if key not in options]  # a suite that is itself a file of rows takes no `data`
    raise_all([unknown(f"option of the suite {name}", key, known) for key in options])


def _set_up(task: Task, num_fewshot: int | None, max_gen_toks: int | None) -> None:
    """A task with the options that are for every suite, and examples that never hold what is asked."""
    from eval.harness.examples import CleanSampler

    if num_fewshot is not None and task.config.num_fewshot != 0:
        task.set_config("num_fewshot", num_fewshot)
    if max_gen_toks is not None and task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", {"max_gen_toks": max_gen_toks}, update=True)
    if task.config.num_fewshot:
        if not (task.has_training_docs() or task.has_validation_docs() or task.fewshot_cfg.samples):
            # The examples are items: lm-eval then tells the sampler which item is asked, if it knows that.
            task.fewshot_cfg.split = task.fewshot_cfg.split or task.config.test_split
        task.sampler = CleanSampler(task)


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
    """lm-eval turns an unknown metric into None and fails much later."""
    from lm_eval.api.registry import METRIC_REGISTRY

    for metric in task.config.metric_list or []:
        name = metric["metric"]
        known = callable(name) or name in METRIC_REGISTRY or metric.get("hf_evaluate") or task.config.process_results
        if not known:
            raise UserError(
                f"Task {task.task_name!r} names an unknown metric.",
                got=name,
                expected=", ".join(sorted(METRIC_REGISTRY)),
                fix="or give a `process_results: !function` that returns it",
            )


def _source(value: object) -> str:
    """What stands for a function in the digest: the text of its file."""
    file = inspect.getsourcefile(value) if callable(value) else None
    return Path(file).read_text(encoding="utf-8") if file else repr(value)
