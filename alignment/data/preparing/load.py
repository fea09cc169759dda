"""Preparation of a stage's splits from its data arguments, with an account of every row."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignment.data.arguments import DataArguments, Source
from alignment.data.preparing import filters, mixing
from alignment.data.preparing.account import DataReport
from alignment.data.preparing.parts import Part, apply, canonical, concatenated, read_part
from alignment.data.preparing.splits import clean, split_off
from alignment.data.reading.formats import recognised
from alignment.data.reading.python_sources import is_python_sources, parse_python_sources
from alignment.data.reading.sources import (
    files_left_out,
    is_local,
    is_tinyworld,
    load_source,
    own_test_split,
    parse_tinyworld,
    source_files,
)
from alignment.errors import UserError, gathered, raise_all

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)


@dataclass
class Prepared:
    """A stage's rows, {train, validation, ...}, and the report on its sources' rows."""

    splits: DatasetDict
    report: DataReport


def load_splits(
    args: DataArguments,
    kind: str,
    seed: int,
    keep: Sequence[str] | None = (),
    avoid: Mapping[str, Sequence[str]] | None = None,
) -> DatasetDict:
    """Return only the splits of `prepare`."""
    return prepare(args, kind, seed, keep, avoid).splits


def prepare(
    args: DataArguments,
    kind: str,
    seed: int,
    keep: Sequence[str] | None = (),
    avoid: Mapping[str, Sequence[str]] | None = None,
    held_out: Mapping[str, str] | None = None,
) -> Prepared:
    """Prepare the rows of `kind` as {train, validation, ...}; without a test split and `eval_share`, no validation.

    Training rows are filtered; then validation rows are split off from sources without a test split; then training rows
    with the same prompt as a held-out row are dropped. A single source keeps its order, and a limit on samples takes
    its first rows; several sources are mixed (mixing.py).

    Args:
        seed: seed of the validation rows and of the mix.
        keep: further columns to keep; None for all.
        avoid: suite -> texts of its items, for each suite in `args.decontaminate`.
        held_out: name of a further split -> split of the source; train must not overlap with it either.

    Raises:
        UserError: no rows are left, or sources cannot be read or combined.
    """
    from datasets import DatasetDict

    sources = args.sources()
    train = [read_part(source, source.split, "train", kind, keep) for source in sources]
    notes = [note for source in sources if (note := files_left_out(source.name))]
    notes += [remark for part in train for remark in part.account.remarks()]
    notes += filter_parts(train, args, kind, avoid or {})
    others = _held_out_parts(train, args, kind, seed, keep, held_out or {})
    near = args.near_duplicate_threshold if args.deduplicate == "near" else None
    notes += clean(train, [part for parts in others.values() for part in parts], kind, near)
    repeated_text = 0.0
    if args.deduplicate == "none":
        found, repeated_text = _count_duplicates(train, kind)
        notes += found
    splits = {"train": put_together(train, sources, ("max_train_samples", args.max_train_samples), seed)}
    for name, parts in others.items():
        limit = args.max_eval_samples if name == "validation" else None
        splits[name] = put_together(parts, [], ("max_eval_samples", limit), seed)
    report = DataReport(
        kind, [part.account for parts in (train, *others.values()) for part in parts], notes, repeated_text
    )
    for line in (*report.accounts, *notes):
        logger.info("%s", line)
    return Prepared(DatasetDict(splits), report)


def filter_parts(
    parts: Sequence[Part], args: DataArguments, kind: str, avoid: Mapping[str, Sequence[str]]
) -> list[str]:
    """Drop training rows by the recipe's filters, and return notes."""
    notes = []
    if args.min_characters or args.max_characters:
        lengths = filters.row_lengths(canonical(parts, kind), kind)
        apply(filters.by_length(lengths, args.min_characters, args.max_characters), parts, kind)
    if args.deduplicate != "none":
        apply(filters.exact_duplicates(_row_keys(parts, kind)), parts, kind)
    if args.deduplicate == "near":
        texts = filters.Texts(canonical(parts, kind), kind, filters.whole_text)
        apply(filters.near_duplicates(texts, args.near_duplicate_threshold), parts, kind)
    if args.decontaminate:
        missing = [suite for suite in args.decontaminate if suite not in avoid]
        if missing:
            raise ValueError(f"decontaminate: the texts of {', '.join(missing)} were not passed in")
        items = filters.index_items({suite: avoid[suite] for suite in args.decontaminate}, args.decontaminate_ngram)
        apply(
            filters.without_items(filters.Texts(canonical(parts, kind), kind, filters.whole_text), items), parts, kind
        )
        shortest = filters.SHORTEST_ITEM
        notes += [
            f"decontaminate: {count} items of {suite} have fewer than {shortest} words "
            f"({shortest * filters.CHARACTERS_PER_WORD} characters of a script without spaces) and were not looked for"
            for suite, count in items.unsearched.items()
        ]
    return notes


def _row_keys(parts: Sequence[Part], kind: str) -> Iterator[bytes]:
    return (filters.row_key(row, kind) for row in filters.canonical_rows(canonical(parts, kind), kind))


def _held_out_parts(
    train: Sequence[Part],
    args: DataArguments,
    kind: str,
    seed: int,
    keep: Sequence[str] | None,
    held_out: Mapping[str, str],
) -> dict[str, list[Part]]:
    """Read each source's test split, or take a share of its training rows out of `train`."""
    parts: dict[str, list[Part]] = {}
    for source, part in zip(args.sources(), train, strict=True):
        own = source.test_split or own_test_split(source.name)
        if own and own != source.split:
            limit = args.max_eval_samples
            parts.setdefault("validation", []).append(read_part(source, own, "validation", kind, keep, limit))
        elif args.eval_share:
            parts.setdefault("validation", []).append(split_off(part, kind, args.eval_share, seed))
        for name, split in held_out.items():
            parts.setdefault(name, []).append(read_part(source, split, name, kind, keep))
    return parts


def _count_duplicates(parts: Sequence[Part], kind: str) -> tuple[list[str], float]:
    """Count duplicate rows in the accounts.

    Returns:
        A note if there are duplicates, and the share of the rows' characters that is in duplicates.
    """
    sizes: list[int] = []

    def keys() -> Iterator[bytes]:
        for row in filters.canonical_rows(canonical(parts, kind), kind):
            sizes.append(len(filters.whole_text(row, kind)))
            yield filters.row_key(row, kind)

    filtered, first = filters.exact_duplicates(keys()), 0
    for part in parts:
        part.account.duplicates = sum(first <= number < first + len(part.rows) for number in filtered.removed)
        first += len(part.rows)
    if not filtered.removed:
        return [], 0.0
    share = sum(sizes[number] for number in filtered.removed) / max(sum(sizes), 1)
    note = (
        f"{len(filtered.removed)} of {len(sizes)} training rows ({share:.1%} of their text) are exact duplicates "
        "(kept; set `deduplicate: exact` to drop them)"
    )
    return [note], share


def put_together(parts: Sequence[Part], sources: Sequence[Source], limit: tuple[str, int | None], seed: int) -> Dataset:
    """Combine the parts of a split: a single part keeps its order, several are mixed; then apply the limit.

    Args:
        sources: the sources, with weights and epochs of training rows; empty to mix all rows.
        limit: the recipe key of the limit, and its value.
    """
    for part in parts:
        if not len(part.rows):
            raise UserError(f"No {part.account.split} row is left.", got=str(part.account), expected="at least one")
    if len(parts) == 1 and all(source.epochs == 1 for source in sources):
        picked: range | np.ndarray = range(len(parts[0].rows))
    else:
        sizes = [len(part.rows) for part in parts]
        picked = mixing.order(sizes, _drawn(parts, sizes, sources), seed)
    taken = picked[: limit[1]]
    _settle(parts, np.asarray(picked), np.asarray(taken), limit[0])
    rows = concatenated(parts)
    return rows if isinstance(taken, range) and len(taken) == len(rows) else rows.select(taken)


def _drawn(parts: Sequence[Part], sizes: list[int], sources: Sequence[Source]) -> list[int]:
    """Return the number of rows that each part contributes to the mix."""
    if not sources:
        return sizes
    epochs = [source.epochs for source in sources]
    weights = [source.weight for source in sources if source.weight is not None]
    if len(weights) < len(sources):
        return mixing.counts(sizes, None, epochs)
    for part, weight in zip(parts, weights, strict=True):
        part.account.share = weight / sum(weights)
    drawn, last = mixing.counts(sizes, weights, epochs), mixing.scarcest(sizes, weights, epochs)
    logger.info(
        "the mix has %d rows, limited by %s, the scarcest source for its weight: %d rows drawn of %d, epochs: %s",
        *(sum(drawn), sources[last], drawn[last], sizes[last], epochs[last]),
    )
    return drawn


def _settle(parts: Sequence[Part], picked: np.ndarray, taken: np.ndarray, limit: str) -> None:
    """Record in the accounts the rows not drawn, cut by the limit, and repeated."""
    first = 0
    for part in parts:
        account, past = part.account, first + len(part.rows)
        mine = [numbers[(numbers >= first) & (numbers < past)] for numbers in (picked, taken)]
        drawn, kept = (len(np.unique(numbers)) for numbers in mine)
        account.remove("not drawn for the mix", len(part.rows) - drawn)
        account.remove(f"beyond {limit}", drawn - kept)
        account.rows, account.repeated = len(mine[1]), len(mine[1]) - kept
        first = past


def require_source(args: DataArguments, kind: str, to_come: Container[str] = ()) -> None:
    """Raise for sources that do not exist: files, splits, options of tinyworld; no row is read.

    Args:
        to_come: names of sources that are not looked for, as they are yet to be written.
    """
    errors: list[UserError] = []
    for source in (one for one in args.sources() if one.name not in to_come):
        with gathered(errors):
            if is_tinyworld(source.name):
                parse_tinyworld(source.name, kind)
            elif is_local(source.name):
                source_files(source.name, source.config, source.split)
    raise_all(errors)


def check_source(args: DataArguments, kind: str, to_come: Container[str] = ()) -> None:
    """Raise for mistakes that show without the hub: missing files, unreadable rows, unknown columns or options.

    This is called before any stage runs. Local files are read; tinyworld's rows are not generated.

    Args:
        to_come: as for `require_source`.
    """
    errors: list[UserError] = []
    for source in (one for one in args.sources() if one.name not in to_come):
        try:
            _check_one(source, kind)
        except UserError as error:
            errors.append(error)
    raise_all(errors)


def _check_one(source: Source, kind: str) -> None:
    if is_tinyworld(source.name):
        parse_tinyworld(source.name, kind)
    elif is_python_sources(source.name):
        parse_python_sources(source.name, kind)
    elif is_local(source.name):
        rows = load_source(source.name, split=source.split, kind=kind)
        recognised(rows, kind, source.columns or {})
