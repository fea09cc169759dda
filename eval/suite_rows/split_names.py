"""The splits that files are named after: test.jsonl, ARC-Easy-Test.jsonl, hellaswag_val.jsonl, dev/anatomy_dev.csv."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from alignment.errors import UserError

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "valid", "val", "dev", "test")
PREFERRED = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv", ".txt", ".md")  # of a file in several formats


def without_split(file: Path) -> str:
    """A file's name without extension and split: `anatomy` for anatomy_test.csv."""
    return re.sub(rf"[_.-](?:{'|'.join(SPLITS)})$", "", file.name.split(".")[0], flags=re.IGNORECASE)


def files_by_split(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Split -> the files of a folder that are named after it, or lie in a subfolder of that name.

    Of several sets of a split (test.jsonl and test_socratic.jsonl), it is the one whose name says no more than that.
    """
    found: dict[str, list[Path]] = {}
    for file in _one_format(files):
        *parents, name = file.relative_to(folder).parts
        split = next(filter(None, map(_split_in, [name.split(".")[0], *reversed(parents)])), None)
        if split:
            found.setdefault(split, []).append(file)
    return {split: _one_set(split, parts, folder) for split, parts in found.items()}


def _one_set(split: str, files: list[Path], folder: Path) -> list[Path]:
    """The files of one set of items: shards and a subfolder's files belong together, test and test_old do not.

    Raises:
        UserError: there are several sets, and no name that is shorter than the others.
    """
    sets: dict[tuple[Path | None, frozenset[str]], list[Path]] = {}
    for file in files:
        named = _split_in(file.name.split(".")[0]) is not None
        key = (file.parent, _other_words(file)) if named else (None, frozenset[str]())
        sets.setdefault(key, []).append(file)
    least = [key for key in sets if all(key[1] < other[1] for other in sets if other != key)]
    if len(sets) > 1 and not least and split in ("train", "training"):  # examples only: train_xl holds train_s
        least = [max(sets, key=lambda key: sum(file.stat().st_size for file in sets[key]))]
    if len(sets) == 1:
        return files
    shown = [str(parts[0].relative_to(folder)) for parts in sets.values()]
    if not least:
        raise UserError(
            f"{folder} holds several sets of items for the split {split}.",
            got=", ".join(shown[:6]) + (", ..." if len(shown) > 6 else ""),
            expected="files of one set",
            fix=f"name one of the files, or its folder: data={files[0]}",
        )
    kept = sets[least[0]]
    left = [name for name, parts in zip(shown, sets.values(), strict=True) if parts is not kept]
    logger.warning("%s: the split %s is %s; not read: %s", folder, split, kept[0].relative_to(folder), ", ".join(left))
    return kept


def _other_words(file: Path) -> frozenset[str]:
    """The words of a file's name other than its split, without the numbers of shards."""
    words = re.split(r"[^A-Za-z]+", file.name.split(".")[0])
    return frozenset(word.lower() for word in words if word and word.lower() not in SPLITS)


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
