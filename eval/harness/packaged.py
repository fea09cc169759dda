"""Load lm-eval's packaged tasks without scanning all of them, and run them on local files.

A suite's `packaged.yaml` names folders of lm-eval's own tasks (`folders`) and the tasks, groups or tags to take from
them (`tasks`). Their rows come from the hub, or with the option `data` from local files with the columns of the hub's
rows. Prompts, filters and metrics are lm-eval's in both cases.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.errors import UserError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry

logger = logging.getLogger(__name__)

Index = dict[str, "Entry"]
Location = tuple[dict[str, list[Path]], str | None]  # split ("" for any) -> a task's files; the subject to select
HELD_OUT = ("test", "validation", "valid", "val", "dev", "train")  # preferred if the task's own split is missing
LISTED = 3  # tasks that a line names
PROSE = (".txt", ".md")
ALSO_CALLED = {"validation": ("valid", "val", "dev")}


def task_manager(folders: list[str] | None, metadata: dict) -> TaskManager:
    """lm-eval's task manager for some folders of its tasks; None stands for all, which takes 15 seconds."""
    from lm_eval.tasks import TaskManager

    if folders is None:
        return TaskManager(metadata=metadata)
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None, "lm_eval was imported above"
    root = Path(spec.origin).parent / "tasks"
    return TaskManager(include_path=[root / folder for folder in folders], include_defaults=False, metadata=metadata)


def load_packaged(
    names: list[str], folders: list[str] | None, data: str | None, metadata: dict, template: str | None = None
) -> dict:
    """Load lm-eval's {tasks, groups} for packaged tasks, groups or tags.

    Args:
        names: tasks, groups or tags.
        folders: the folders of lm-eval's tasks that hold them; None for all.
        data: file or folder with the rows, see `retarget`.
        metadata: passed to the tasks' `custom_dataset` functions.
        template: the task whose settings apply to files of `data` that are named after no task.

    Raises:
        UserError: `data` has no rows for these tasks.
    """
    manager = task_manager(folders, metadata)
    if data is not None:
        retarget(manager.task_index, names, Path(data).expanduser(), template)
    return manager.load([name for name in names if name in manager.task_index])


def retarget(index: Index, names: list[str], data: Path, template: str | None) -> None:
    """Make the tasks under `names` read local files; tasks without a file are removed and logged.

    A folder holds a file or folder for each task, named after the task or its subset on the hub (`ARC-Easy.jsonl`,
    `anatomy/test.csv`). A single task may use the whole folder or a file of any name; tasks on the same subset share
    it. A single file for several subsets serves the tasks that its column `subject` names.
    """
    if not data.exists():
        raise UserError(
            "The suite's data does not exist.", got=data, expected="a file or a folder", fix="check `data=`"
        )
    tasks = list(dict.fromkeys(_members(index, names)))
    _require_settings(index, tasks)
    subsets = {task: index[task].cfg.get("dataset_name") for task in tasks}
    places = {task: place for task in tasks if (place := _place(data, task, subsets))}
    extra = _other_files(data, places, names[0]) if template else {}
    _name_left_out(data, places)
    for task, place in list((places | extra).items()):
        config = _on_local_files(
            _config(index[template if template and task in extra else task]) | {"task": task}, place
        )
        if len(tasks) > 1 and _selects_nothing(config):
            del places[task]
        else:
            index[task] = _entry(task, config)
    if not places and not extra:
        expected = ", ".join(subset or task for task, subset in list(subsets.items())[:8])
        raise UserError(
            "No task of the suite has a file in its data.", got=data, expected=f"files named {expected}, ..."
        )
    missing = [task for task in tasks if task not in places]
    for task in missing:
        del index[task]
    _prune(index, names, list(extra))
    if missing:
        logger.info(_without_rows(data, list(places), missing, list(extra)))


def _without_rows(data: Path, found: list[str], missing: list[str], extra: list[str]) -> str:
    """Say which tasks have no rows, and which are evaluated nevertheless."""
    named = f"{_some(extra)}, named after the file{'s' if len(extra) > 1 else ''}"
    evaluated = "; ".join([*([_some(found)] if found else []), *([named] if extra else [])])
    all_tasks = len(missing) + len(found)
    return f"{data}: no rows for {len(missing)} of {all_tasks} tasks: {_some(missing)}; evaluated: {evaluated}"


def _some(names: list[str]) -> str:
    """The first names of many."""
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _members(index: Index, names: list[str]) -> Iterator[str]:
    """Yield the tasks among `names`, and those of its groups and tags."""
    for name in names:
        entry = index.get(name)
        if entry is None:
            raise KeyError(f"lm-eval packages no task, group or tag {name!r}")
        if entry.kind.name == "GROUP":
            yield from _members(index, [part if isinstance(part, str) else part["task"] for part in entry.cfg["task"]])
        elif entry.kind.name == "TAG":
            yield from _members(index, sorted(entry.tags))
        else:
            yield name


def _place(data: Path, task: str, subsets: dict[str, str | None]) -> Location | None:
    """The files of a task's rows, or None."""
    from alignment.data.reading.files import local_files
    from eval.suite_rows.local_rows import subjects_of
    from eval.suite_rows.split_names import files_by_split, without_split

    own = [name for name in (task, subsets[task]) if name]
    alone = len(set(subsets.values())) == 1
    if data.is_file():
        fits = alone or data.stem in own or without_split(data) in own
        subject = None if fits else subsets[task]
        return ({"": [data]}, subject) if fits or subject in subjects_of(data) else None
    found = [part for name in own for part in sorted(data.iterdir()) if name in (part.name, part.stem)]
    if found and found[0].is_file():
        return {"": [found[0]]}, None
    folder = found[0] if found else data
    files = _with_rows(local_files(str(folder)))
    if not found:
        named = [file for file in files if without_split(file) in own]
        below = [file for file in files if {*own} & {*file.relative_to(data).parts[:-1]}]
        files = named or below or (files if alone else [])
    return (files_by_split(files, folder) or {"": files}, None) if files else None


def _with_rows(files: list[Path]) -> list[Path]:
    """The files without texts that lie next to them: a licence, a corpus or prompts next to JSON lines are no rows."""
    from alignment.data.reading.opening import extension_of

    tables = [file for file in files if extension_of(file) not in PROSE]
    if tables and len(tables) < len(files):
        texts = [file.name for file in files if file not in tables]
        logger.info("texts next to the rows are not read: %s", ", ".join(texts[:8]))
    return tables or files


def _require_settings(index: Index, tasks: list[str]) -> None:
    """Raise if a task is a Python class, which loads its own rows from the hub, whatever the settings say."""
    classes = [task for task in tasks if "class" in index[task].cfg]
    if classes:
        raise UserError(
            "lm-eval's own code loads the rows of this task, and only from the hub.",
            got=", ".join(classes),
            expected="a task that is written as YAML",
            fix="leave out `data=`, or write an lm-eval YAML for these rows",
        )


def _name_left_out(data: Path, places: dict[str, Location]) -> None:
    """Warn of rows whose subject is no task's."""
    from eval.suite_rows.local_rows import subjects_of

    read = {subject for _, subject in places.values() if subject}
    left = {subject: count for subject, count in subjects_of(data).items() if subject not in read} if read else {}
    if left:
        shown = ", ".join(f"{subject} ({count})" for subject, count in list(left.items())[:8])
        logger.warning(
            "%s: %d rows have a subject that is no task, and are left out: %s", data, sum(left.values()), shown
        )


def _other_files(data: Path, places: dict[str, Location], prefix: str) -> dict[str, Location]:
    """New tasks for the data files of a folder (or the single file) that no task uses."""
    from alignment.data.reading.files import READERS, extension_of

    taken = {file for splits, _ in places.values() for files in splits.values() for file in files}
    files = sorted(file for file in data.iterdir() if not file.name.startswith(".")) if data.is_dir() else [data]
    rows = _with_rows([file for file in files if extension_of(file) in READERS])
    return {f"{prefix}_{file.stem}": ({"": [file]}, None) for file in rows if file not in taken}


def _on_local_files(config: dict, place: Location) -> dict:
    """A task's settings with rows from local files; without a training split, few-shot examples are other items."""
    from eval.suite_rows.local_rows import read_local
    from eval.suite_rows.needed_columns import needs_of

    own, subject = place
    asked: Any = config.get("test_split") or config.get("validation_split") or config.get("training_split")
    if "" not in own and asked not in own:
        asked = next(split for split in (*ALSO_CALLED.get(asked, ()), *HELD_OUT) if split in own)
    files = {split or asked: list(map(str, own[split])) for split in sorted(own)}
    examples = [config.get(key) for key in ("fewshot_split", "training_split", "validation_split")]
    names = [name for split in examples if split for name in (split, *ALSO_CALLED.get(split, ()))]
    changed = {"training_split": None, "validation_split": None, "test_split": asked}
    if "samples" not in (config.get("fewshot_config") or {}):
        changed["fewshot_split"] = next((split for split in names if split in files), asked)
    rows = {"files": files, "needs": needs_of(config), "subject": subject}
    return config | changed | {"custom_dataset": read_local, "dataset_kwargs": rows}


def _selects_nothing(config: dict) -> bool:
    """Whether a task's own function takes none of the rows, as MMLU-Pro's of a category that they lack."""
    process = config.get("process_docs")
    if not callable(process):
        return False
    (rows,) = config["custom_dataset"](files={"": config["dataset_kwargs"]["files"][config["test_split"]]}).values()
    try:
        return len(process(rows)) == 0
    except Exception:  # the author's function on the user's rows: loading the task names it and its rows
        return False


def _config(entry: Entry) -> dict:
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(entry.yaml_path) if entry.yaml_path else dict(entry.cfg)


def _entry(name: str, config: dict) -> Entry:
    from lm_eval.tasks._index import TaskIndex

    found = TaskIndex.entry_from_config(config)
    found.name = name
    return found


def _prune(index: Index, names: list[str], extra: list[str]) -> None:
    """Remove missing members and empty groups and tags, and add `extra` to the first group."""
    for name in names:
        entry = index.get(name)
        if entry is None:
            continue
        if entry.kind.name == "TAG":
            entry.tags &= set(index)
            empty = not entry.tags
        elif entry.kind.name == "GROUP":
            parts = entry.cfg["task"]
            _prune(index, [part if isinstance(part, str) else part["task"] for part in parts], [])
            kept = [part for part in parts if (part if isinstance(part, str) else part["task"]) in index] + extra
            index[name] = _entry(name, _config(entry) | {"task": kept})
            empty = not kept
        else:
            empty = False
        if empty:
            del index[name]
