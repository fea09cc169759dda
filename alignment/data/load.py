"""From data arguments to the canonical rows of a stage's train and validation splits."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alignment.data.arguments import DataArguments
from alignment.data.formats import convert, recognise, rename_columns
from alignment.data.python_sources import is_python_sources, parse_python_sources
from alignment.data.sources import is_local, is_tinyworld, load_source, own_test_split, parse_tinyworld
from alignment.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)


def load_splits(args: DataArguments, kind: str, seed: int, keep: Sequence[str] | None = ()) -> DatasetDict:
    """The rows of `kind` as {train, validation}; no validation where `eval_share` is 0 and there is no test split.

    The order of rows is the source's. A limit on samples takes the first ones.
    """
    from datasets import DatasetDict

    train = _load_split(args, args.dataset_train_split, kind, keep)
    test_split = args.dataset_test_split or own_test_split(args.dataset_name)
    if test_split:
        splits = {"train": train, "validation": _load_split(args, test_split, kind, keep)}
    elif args.eval_share:
        splits = dict(zip(("train", "validation"), split_off(train, kind, args.eval_share, seed), strict=True))
    else:
        splits = {"train": train}
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples}
    return DatasetDict({name: _first(rows, limits[name]) for name, rows in splits.items()})


def check_source(args: DataArguments, kind: str) -> None:
    """Raise for what can be known of a source without a look at the hub: missing files, unreadable rows, columns.

    Called before a stage runs, so that a mistake costs nothing. Local files are read; of tinyworld only the name and
    the options are.
    """
    if is_tinyworld(args.dataset_name):
        parse_tinyworld(args.dataset_name, kind)
    elif is_python_sources(args.dataset_name):
        parse_python_sources(args.dataset_name, kind)
    elif is_local(args.dataset_name):
        rows = load_source(args.dataset_name, split=args.dataset_train_split, kind=kind)
        columns = args.columns or {}
        recognise(rename_columns(rows, columns).column_names, kind, mapped=columns.values())


def split_off(rows: Dataset, kind: str, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Train and validation rows; rows with the same prompt (or text) stay on one side, so nothing leaks."""
    keys = [_split_key(row, kind) for row in rows]
    groups = list(dict.fromkeys(keys))
    if len(groups) < 2:
        raise UserError(
            "There are too few different rows to split some off for validation.",
            got=f"{len(keys)} row(s), {len(groups)} different",
            needed="2 or more",
            mend="set eval_share: 0, or name a dataset_test_split",
        )
    size = min(max(1, round(share * len(groups))), len(groups) - 1)
    held_out = set(random.Random(seed).sample(groups, size))
    train = [index for index, key in enumerate(keys) if key not in held_out]
    validation = [index for index, key in enumerate(keys) if key in held_out]
    logger.info("split off %d of %d rows for validation (seed %d)", len(validation), len(keys), seed)
    return rows.select(train), rows.select(validation)


def _split_key(row: dict, kind: str) -> str:
    """What two rows must not share across the splits: the text, or the conversation up to the last reply."""
    if kind == "text":
        return row["text"]
    return json.dumps(row["messages"][:-1] if kind == "sft" else row["prompt"])


def _load_split(args: DataArguments, split: str, kind: str, keep: Sequence[str] | None) -> Dataset:
    source = load_source(
        args.dataset_name,
        config=args.dataset_config,
        split=split,
        kind=kind,
        streaming=args.streaming,
        max_rows=_rows_to_stream(args, split) if args.streaming else None,
    )
    rows, report = convert(source, kind, columns=args.columns, keep=keep)
    logger.info("%s, split %s: %s", args.dataset_name, split, report)
    return rows


def _rows_to_stream(args: DataArguments, split: str) -> int | None:
    """How many rows of a split a limit on samples asks for, with those that are split off for validation."""
    if split != args.dataset_train_split:
        return args.max_eval_samples
    if args.max_train_samples is None:
        return None
    share = 0 if args.dataset_test_split else args.eval_share
    return math.ceil(args.max_train_samples / (1 - share))


def _first(rows: Dataset, limit: int | None) -> Dataset:
    return rows if limit is None else rows.select(range(min(limit, len(rows))))
