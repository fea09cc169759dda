"""Conversion of a data set's rows to one of five kinds, by its columns.

    text        {text}
    sft         {messages}
    preference  {prompt, chosen, rejected}   each a list of messages; chosen and rejected hold one reply
    prompts     {prompt}                     a list of messages that ends with the user's
    kto         {prompt, completion, label}  two lists of messages, the second one reply; whether the reply is good

A message is {"role": "system" | "user" | "assistant", "content": str}. A conversation may begin with a system message;
then user and assistant take turns. Rows that cannot be converted are dropped, and counted by reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.data.reading import conversations, row_formats
from alignment.data.reading.conversations import Row, Unusable, refuse_beyond_text
from alignment.data.reading.row_formats import EXPANSIONS, FORMATS, KINDS, OPTIONAL_COLUMNS, READ_COLUMNS
from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, Features


# The code of the conversion, part of the cache key: rows converted by other code are not reused.
CONVERTING = (__file__, conversations.__file__, row_formats.__file__)
EXAMPLES = 3  # rows that a report names per reason
CONVERTED_ROWS = 200  # rows in memory during conversion


@dataclass
class Report:
    """Counts of a source's rows: read = kept + the sum of dropped."""

    kind: str
    format: str
    rows: int = 0
    """Rows of the source. `read` is larger if a row has several: instances of an instruction, replies of a pair."""
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)
    """Reason -> numbers of the first rows in the source, counted from 1."""

    def __str__(self) -> str:
        reasons = "; ".join(self._reason(reason) for reason in sorted(self.dropped))
        lost = f"{self.read - self.kept} dropped" + (f" ({reasons})" if reasons else "")
        source = f" (of {self.rows} in the source)" if self.rows != self.read else ""
        return f"{self.read} rows{source} read as {self.kind} from {self.format}, {self.kept} kept, {lost}"

    def _reason(self, reason: str) -> str:
        count, examples = self.dropped[reason], self.examples.get(reason, [])
        if not examples:
            return f"{count} {reason}"
        more = ", ..." if count > len(examples) else ""
        return f"{count} {reason}: row {', '.join(map(str, examples))}{more}"

    def drop(self, reason: str, row: int) -> None:
        """Count a dropped row by its reason and its number in the source."""
        self.read += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES and row not in examples:
            examples.append(row)


def convert(
    dataset: Dataset, kind: str, *, columns: Mapping[str, str] | None = None, keep: Sequence[str] | None = ()
) -> tuple[Dataset, Report]:
    """Convert the rows of `dataset` to `kind`, and return them with a report on dropped rows.

    Rows of a memory-mapped data set are written to datasets' cache with their report; rows in memory stay in memory.

    Args:
        columns: column of the data set -> recognised column; applied first.
        keep: further columns to keep if the data set has them; None for all. Canonical columns take precedence.

    Raises:
        UserError: no row can be used, or the columns are not recognised.
    """
    from alignment.data.reading.arrow_cache import NoRowsError, cached_tables, code_digest, tables_in_memory

    renamed = rename_columns(dataset, columns or {})
    format = recognise(renamed.column_names, kind, mapped=(columns or {}).values())
    wanted = renamed.column_names if keep is None else keep
    carried = [name for name in wanted if name in renamed.column_names and name not in KINDS[kind]]

    def tables(notes: dict[str, Any]) -> Iterator[pyarrow.Table]:
        return _tables(renamed, kind, format, carried, notes)

    try:
        if dataset.cache_files:
            # datasets' fingerprint identifies the rows: their source and all operations on them.
            key = ("converted", code_digest(*CONVERTING), dataset._fingerprint, columns, kind, format, carried)
            rows, notes = cached_tables(key, tables)
        else:
            rows, notes = tables_in_memory(tables)
    except NoRowsError as error:
        raise UserError(
            f"No row can be used as {kind}.",
            got=str(Report(**error.args[0])),
            expected="at least one row that is complete",
            fix="inspect a row of the data set, or map other columns with `columns`",
        ) from None
    return rows, Report(**notes)


def _tables(
    dataset: Dataset, kind: str, format: tuple[str, ...], carried: list[str], notes: dict[str, Any]
) -> Iterator[pyarrow.Table]:
    """Yield tables of canonical rows with the carried columns, and write the report's fields to `notes`."""
    import pyarrow
    from datasets import Features

    present = [name for name in dataset.column_names if name in READ_COLUMNS]
    used = [name for name in present if name in (*format, *OPTIONAL_COLUMNS.get(kind, ()))]
    report = Report(kind, ", ".join([*format, *(name for name in used if name not in format)]))
    schema = Features({**_features(kind), **{name: dataset.features[name] for name in carried}}).arrow_schema
    plain, arrow = dataset.select_columns(present).with_format(None), dataset.with_format("arrow")
    for start in range(0, len(dataset), CONVERTED_ROWS):
        values = plain[start : start + CONVERTED_ROWS]
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        numbered = list(_converted(rows, start, kind, format, report))
        columns = [pyarrow.array([row[name] for _, row in numbered], schema.field(name).type) for name in KINDS[kind]]
        if carried:
            sources = arrow[start : start + CONVERTED_ROWS].take([number - start for number, _ in numbered])
            columns += [sources[name] for name in carried]
        yield pyarrow.Table.from_arrays(columns, schema=schema)
    notes.update(asdict(report))


def _converted(
    rows: Iterable[Row], start: int, kind: str, format: tuple[str, ...], report: Report
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number in the source, canonical row) of usable rows; all rows are counted in the report."""
    convert_row, expand = FORMATS[kind][format], EXPANSIONS.get((kind, format), lambda row: [row])
    for number, row in enumerate(rows, start=start):
        report.rows += 1
        try:
            if kind != "text":
                refuse_beyond_text(row)
            parts = expand(row)
        except Unusable as reason:
            report.drop(str(reason), number + 1)
            continue
        for part in parts:
            try:
                canonical = convert_row(part)
            except Unusable as reason:
                report.drop(str(reason), number + 1)
                continue
            report.read += 1
            report.kept += 1
            yield number, canonical


def rename_columns(dataset: Dataset, columns: Mapping[str, str]) -> Dataset:
    """Rename columns by {column of the data set: recognised column}, which may replace another column."""
    missing = [name for name in columns if name not in dataset.column_names]
    if missing:
        raise UserError(
            f"`columns` names columns that the data set does not have: {', '.join(missing)}.",
            got=f"columns {', '.join(dataset.column_names)}",
            expected="a mapping {column of the data set: recognised column}",
            fix="use one of the data set's columns on the left",
        )
    targets = list(columns.values())
    twice = sorted({name for name in targets if targets.count(name) > 1})
    if twice:
        raise UserError(
            f"`columns` maps two columns to one name: {', '.join(twice)}.",
            got=dict(columns),
            expected="distinct names on the right",
            fix="keep one of the two",
        )
    in_the_way = [name for name in targets if name in dataset.column_names and name not in columns]
    return dataset.remove_columns(in_the_way).rename_columns(dict(columns))


def recognise(column_names: Sequence[str], kind: str, mapped: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the first format of `kind` whose columns exist; formats with columns that the user mapped come first."""
    wanted = set(mapped)
    for format in sorted(FORMATS[kind], key=lambda format: -len(wanted & set(format))):
        if set(format) <= set(column_names):
            return format
    accepted = " | ".join(", ".join(format) for format in FORMATS[kind])
    example = ", ".join(
        f"{theirs}: {ours}" for theirs, ours in zip(column_names, next(iter(FORMATS[kind])), strict=False)
    )
    raise UserError(
        f"The columns are not recognised as {kind} data.",
        got=f"columns {', '.join(column_names)}",
        expected=f"one of these sets of columns: {accepted}",
        fix=f"map columns to recognised ones in the recipe, for example `columns: {{{example}}}`",
    )


def _features(kind: str) -> Features:
    from datasets import Features, List, Value

    if kind == "text":
        return Features({"text": Value("string")})
    messages = List({"role": Value("string"), "content": Value("string")})
    return Features({name: Value("bool") if name == "label" else messages for name in KINDS[kind]})
