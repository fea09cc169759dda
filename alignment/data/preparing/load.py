"""From data arguments to the canonical rows of a stage's splits, with an account of every row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignment.data.arguments import DataArguments, Source
from alignment.data.preparing import filters, mixing
from alignment.data.preparing.account import DataReport
from alignment.data.preparing.parts import Part, apply, canonical, concatenated, read_part
from alignment.data.preparing.splits import clean, split_off
from alignment.data.reading.formats import recognise, rename_columns
from alignment.data.reading.python_sources import is_python_sources, parse_python_sources
from alignment.data.reading.sources import is_local, is_tinyworld, load_source, own_test_split, parse_tinyworld
from alignment.errors import UserError, raise_all

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)


@dataclass
class Prepared:
    """A stage's rows, {train, validation, ...}, and what became of every row of its sources."""

    splits: DatasetDict
    report: DataReport


def load_splits(
    args: DataArguments,
    kind: str,
    seed: int,
    keep: Sequence[str] | None = (),
    avoid: Mapping[str, Sequence[str]] | None = None,
) -> DatasetDict:
    """The splits of `prepare`."""
    return prepare(args, kind, seed, keep, avoid).splits


def prepare(
    args: DataArguments,
    kind: str,
    seed: int,
    keep: Sequence[str] | None = (),
    avoid: Mapping[str, Sequence[str]] | None = None,
    held_out: Mapping[str, str] | None = None,
) -> Prepared:
    """The rows of `kind` as {train, validation, ...}; no validation where `eval_share` is 0 and there is no test split.

    Training rows are filtered, then validation rows are split off where a source has none of its own, then training
    rows that ask what a held-out row asks are left out. Of one source the order of rows is its own, and a limit on
    samples takes the first ones; several are mixed (mixing.py).

    Args:
        seed: of the rows split off, and of the mix.
        keep: columns that come along; None for all.
        avoid: suite -> texts of its items, for each suite in `args.decontaminate`.
        held_out: name of a further split -> the split of the source that it is; train is kept clean of it too.

    Raises:
        UserError: no rows are left; sources that cannot be read, or not be put together.
    """
    from datasets import DatasetDict

    sources = args.sources()
    train = [read_part(source, source.split, "train", kind, keep) for source in sources]
    notes = filter_parts(train, args, kind, avoid or {})
    others = _held_out_parts(train, args, kind, seed, keep, held_out or {})
    near = args.near_duplicate_threshold if args.deduplicate == "near" else None
    notes += clean(train, [part for parts in others.values() for part in parts], kind, near)
    if args.deduplicate == "none":
        notes += _count_duplicates(train, kind)
    splits = {"train": put_together(train, sources, ("max_train_samples", args.max_train_samples), seed)}
    for name, parts in others.items():
        limit = args.max_eval_samples if name == "validation" else None
        splits[name] = put_together(parts, [], ("max_eval_samples", limit), seed)
    report = DataReport(kind, [part.account for parts in (train, *others.values()) for part in parts], notes)
    for line in (*report.accounts, *notes):
        logger.info("%s", line)
    return Prepared(DatasetDict(splits), report)


def filter_parts(
    parts: Sequence[Part], args: DataArguments, kind: str, avoid: Mapping[str, Sequence[str]]
) -> list[str]:
    """Leave out the training rows that the recipe's filters name; what else is worth telling comes back."""
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
    """Of each source its own test split or a share of its training rows, which are taken out of `train`."""
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


def _count_duplicates(parts: Sequence[Part], kind: str) -> list[str]:
    """Put into the accounts how many rows are there twice; a sentence where there are some."""
    filtered, first = filters.exact_duplicates(_row_keys(parts, kind)), 0
    for part in parts:
        part.account.duplicates = sum(first <= number < first + len(part.rows) for number in filtered.removed)
        first += len(part.rows)
    if not filtered.removed:
        return []
    total = sum(len(part.rows) for part in parts)
    return [
        f"{len(filtered.removed)} of {total} training rows are the same as an earlier one; "
        "`deduplicate: exact` leaves them out"
    ]


def put_together(parts: Sequence[Part], sources: Sequence[Source], limit: tuple[str, int | None], seed: int) -> Dataset:
    """One split's rows: a single part in its own order, several mixed, and no more than the limit.

    Args:
        sources: say how training rows are mixed; none: every row, in a mixed order.
        limit: the recipe key, and what it allows.
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
    """How many rows each part gives to the mix."""
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
        "the mix has %d rows: %s, the scarcest for its weight, gives %d (%d rows, epochs: %s)",
        *(sum(drawn), sources[last], drawn[last], sizes[last], epochs[last]),
    )
    return drawn


def _settle(parts: Sequence[Part], picked: np.ndarray, taken: np.ndarray, limit: str) -> None:
    """Put into the accounts what was not drawn, what the limit cut off, and what is there several times."""
    first = 0
    for part in parts:
        account, past = part.account, first + len(part.rows)
        mine = [numbers[(numbers >= first) & (numbers < past)] for numbers in (picked, taken)]
        drawn, kept = (len(np.unique(numbers)) for numbers in mine)
        account.remove("not drawn for the mix", len(part.rows) - drawn)
        account.remove(f"beyond {limit}", drawn - kept)
        account.rows, account.repeated = len(mine[1]), len(mine[1]) - kept
        first = past


def check_source(args: DataArguments, kind: str) -> None:
    """Raise for what can be known of the sources without a look at the hub: missing files, unreadable rows, columns.

    Called before a stage runs, so that a mistake costs nothing. Local files are read; of tinyworld only the name and
    the options are.
    """
    errors: list[UserError] = []
    for source in args.sources():
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
        columns = source.columns or {}
        recognise(rename_columns(rows, columns).column_names, kind, mapped=columns.values())
