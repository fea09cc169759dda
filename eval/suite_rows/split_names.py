"""The splits that files are named after: test.jsonl, ARC-Easy-Test.jsonl, hellaswag_val.jsonl, dev/anatomy_dev.csv."""

from __future__ import annotations

import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "valid", "val", "dev", "test")
PREFERRED = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".txt", ".md")  # of a file in several formats


def without_split(file: Path) -> str:
    """A file's name without extension and split: `anatomy` for anatomy_test.csv."""
    return re.sub(rf"[_.-](?:{'|'.join(SPLITS)})$", "", file.name.split(".")[0], flags=re.IGNORECASE)


def files_by_split(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Split -> the files of a folder that are named after it, or lie in a subfolder of that name."""
    found: dict[str, list[Path]] = {}
    for file in _one_format(files):
        *parents, name = file.relative_to(folder).parts
        split = next(filter(None, map(_split_in, [name.split(".")[0], *reversed(parents)])), None)
        if split:
            found.setdefault(split, []).append(file)
    return found


def _one_format(files: list[Path]) -> list[Path]:
    """The files, but only one of those that have the same rows in several formats, as ARC's .csv and .jsonl."""
    kept: dict[Path, Path] = {}
    for file in sorted(files, key=lambda file: [file.suffix == kind for kind in PREFERRED], reverse=True):
        kept.setdefault(file.with_name(file.name.split(".")[0]), file)
    left = sorted(file.name for file in set(files) - set(kept.values()))
    if left:
        logger.info("files with the same name in another format are not read: %s", ", ".join(left))
    return [file for file in files if file in kept.values()]


def _split_in(name: str) -> str | None:
    """The last word of a name that is a split."""
    words = re.split(r"[^A-Za-z]+", name)
    return next((word.lower() for word in reversed(words) if word.lower() in SPLITS), None)
