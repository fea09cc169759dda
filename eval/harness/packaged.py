"""lm-eval's packaged tasks without its scan of all of them, and the same tasks on local files.

A suite's `packaged.yaml` names the folders of lm-eval's own tasks that it takes (`folders`) and the tasks, groups or
tags in them (`tasks`). Their rows come from the hub, or with the option `data` from local files in the columns that the
hub's rows have. Prompts, filters and metrics are lm-eval's either way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import Entry

logger = logging.getLogger(__name__)

Index = dict[str, "Entry"]
HELD_OUT = ("test", "validation", "valid", "dev", "train")  # which split is asked where the task's own is not there
SUBJECT = "subject"  # MMLU's column that says which task a row of one large file belongs to


def task_manager(folders: list[str] | None, metadata: dict) -> TaskManager:
    """lm-eval's task manager over some folders of its own tasks; over all, which takes 15 seconds, for None."""
    from lm_eval.tasks import TaskManager

    if folders is None:
        return TaskManager(metadata=metadata)
    root = Path(find_spec("lm_eval").origin).parent / "tasks"
    return TaskManager(include_path=[root / folder for folder in folders], include_defaults=False, metadata=metadata)


def load_packaged(
    names: list[str], folders: list[str] | None, data: str | None, metadata: dict, template: str | None = None
) -> dict:
    """lm-eval's {tasks, groups} of packaged tasks, groups or tags.

    Args:
        data: file or folder to take the rows from, see `retarget`.
        metadata: handed to the tasks' `custom_dataset` functions.
        template: the task whose settings serve for files of `data` that are named after no task.

    Raises:
        UserError: nothing of `data` serves these tasks.
    """
    manager = task_manager(folders, metadata)
    if data is not None:
        retarget(manager.task_index, names, Path(data).expanduser(), template)
    return manager.load([name for name in names if name in manager.task_index])


def retarget(index: Index, names: list[str], data: Path, template: str | None) -> None:
    """Let the tasks under `names` read local files, and leave out those that have none, with a line in the log.

    A folder holds a file or folder for each task, named as the task or as its subset on the hub (`ARC-Easy.jsonl`,
    `anatomy/test.csv`). One task alone may have the whole folder or a file of any name, and tasks on the same subset
    share it. Of several tasks on different subsets, one file serves those that its column `subject` names.
    """
    if not data.exists():
        raise UserError("No such data for a suite.", got=data, expected="a file or a folder", fix="check `data=`")
    tasks = list(dict.fromkeys(_members(index, names)))
    subsets = {task: index[task].cfg.get("dataset_name") for task in tasks}
    places = {task: place for task in tasks if (place := _place(data, task, subsets))}
    extra = _other_files(data, places, names[0]) if template else {}
    for task, place in (places | extra).items():
        config = _config(index[task if task in places else template])
        index[task] = _entry(task, _on_local_files(config | {"task": task}, place, subsets.get(task)))
    if not places and not extra:
        expected = ", ".join(subset or task for task, subset in list(subsets.items())[:8])
        raise UserError("No task of the suite has a file there.", got=data, expected=f"files named {expected}, ...")
    missing = [task for task in tasks if task not in places]
    for task in missing:
        del index[task]
    _prune(index, names, list(extra))
    if missing:
        logger.info("%s: no rows for %d of %d tasks: %s", data, len(missing), len(tasks), ", ".join(missing))


def read_local(files: dict[str, str], subject: str | None = None, **_: object) -> dict[str, Dataset]:
    """The `custom_dataset` of a retargeted task: split -> rows. `files`: split -> `PATH` or `PATH?split`."""
    from alignment.data.reading.files import local_files, read_files, split_files

    splits = {}
    for split, place in files.items():
        path, _mark, own = place.rpartition("?")
        rows = read_files(split_files(path, own) if own else local_files(path))
        splits[split] = rows if subject is None else rows.filter(lambda row: row[SUBJECT] == subject)
    return splits


def _members(index: Index, names: list[str]) -> Iterator[str]:
    """The tasks that tasks, groups and tags stand for."""
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


def _place(data: Path, task: str, subsets: dict[str, str | None]) -> tuple[Path, str | None] | None:
    """Where a task's rows are: (file or folder, the subject to take of it), or None."""
    from alignment.data.reading.files import local_files, read_files

    own = [name for name in (task, subsets[task]) if name]
    alone = len(set(subsets.values())) == 1
    if data.is_dir():
        found = [part for name in own for part in sorted(data.iterdir()) if name in (part.name, part.stem)]
        return (found[0], None) if found else (data, None) if alone else None
    if alone or data.stem in own:
        return data, None
    rows = read_files(local_files(str(data)))
    if SUBJECT in rows.column_names and subsets[task] in rows.unique(SUBJECT):
        return data, subsets[task]
    return None


def _other_files(data: Path, places: dict, prefix: str) -> dict[str, tuple[Path, None]]:
    """The data files of a folder (or a single one) that no task has taken, as tasks of their own."""
    from alignment.data.reading.files import READERS, extension_of

    taken = {place for place, _ in places.values()}
    files = sorted(data.iterdir()) if data.is_dir() else [data]
    return {f"{prefix}_{f.stem}": (f, None) for f in files if f not in taken and extension_of(f) in READERS}


def _on_local_files(config: dict, place: tuple[Path, str | None], subset: str | None) -> dict:
    """A task's settings with its rows from local files. Where those have no training split, the few-shot examples of an
    item are other items."""
    from alignment.data.reading.files import local_splits

    path, subject = place
    asked = config.get("test_split") or config.get("validation_split") or config.get("training_split")
    own = local_splits(str(path))
    if own and asked not in own:
        asked = next(split for split in HELD_OUT if split in own)
    files = {split: f"{path}?{split}" for split in sorted(own)} or {asked: f"{path}?"}
    examples = [config.get(key) for key in ("fewshot_split", "training_split", "validation_split")]
    changed = {"training_split": None, "validation_split": None, "test_split": asked}
    if "samples" not in (config.get("fewshot_config") or {}):
        changed["fewshot_split"] = next((split for split in examples if split in files), asked)
    kwargs = {"files": files} | ({"subject": subject} if subject else {})
    return config | changed | {"custom_dataset": read_local, "dataset_kwargs": kwargs}


def _config(entry: Entry) -> dict:
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(entry.yaml_path) if entry.yaml_path else dict(entry.cfg)


def _entry(name: str, config: dict) -> Entry:
    from lm_eval.tasks._index import TaskIndex

    found = TaskIndex.entry_from_config(config)
    found.name = name
    return found


def _prune(index: Index, names: list[str], extra: list[str]) -> None:
    """Take members that are gone out of groups and tags, empty ones too, and put `extra` into the first group."""
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
