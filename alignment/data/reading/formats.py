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

from alignment.data.columns import cell_values, column_names, reply_labels
from alignment.data.columns.cell_values import Row, Unusable, is_blank
from alignment.data.columns.column_names import REWARD_ARGUMENTS, rename_columns, replaced_columns
from alignment.data.columns.reply_labels import Labels
from alignment.data.reading import conversations, row_formats
from alignment.data.reading.row_formats import (
    FORMATS,
    KINDS,
    LABEL,
    MEANINGFUL,
    READ_COLUMNS,
    Format,
    canonical_rows_of,
    optional_columns,
)
from alignment.data.reading.suggestions import OPEN, TO_COMPLETE, suggest, to_complete, written
from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, Features


# The code of the conversion, part of the cache key: rows converted by other code are not reused.
_MODULES = (cell_values, column_names, reply_labels, conversations, row_formats)
CONVERTING = (__file__, *(str(module.__file__) for module in _MODULES))
EXAMPLES = 3  # rows that a report names per reason
SEEN = 5  # values that a report names per reason
CONVERTED_ROWS = 200  # rows in memory during conversion
TRIED_ROWS = 20  # first rows on which a suggested mapping is tried
FOR_FUNCTIONS = ("prompts", "preference")  # kinds of rows whose further columns reward functions receive


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
    seen: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the first values that were not understood, such as unknown roles or labels."""
    changed: dict[str, int] = field(default_factory=dict)
    """What was changed -> number of usable rows of the source in which it was."""
    unread: dict[str, int] = field(default_factory=dict)
    """Column that may change the meaning of a row -> number of usable rows whose conversation lacks its text."""
    notes: list[str] = field(default_factory=list)
    """Columns that were left out, a sentence each."""

    def __str__(self) -> str:
        reasons = "; ".join(self._reason(reason) for reason in sorted(self.dropped))
        lost = f"{self.read - self.kept} dropped" + (f" ({reasons})" if reasons else "")
        source = f" (of {self.rows} in the source)" if self.rows != self.read else ""
        changed = "".join(f"; {what}: {count}" for what, count in sorted(self.changed.items()))
        return f"{self.read} rows{source} read as {self.kind} from {self.format}, {self.kept} kept, {lost}{changed}"

    def _reason(self, reason: str) -> str:
        count, examples, seen = self.dropped[reason], self.examples.get(reason, []), self.seen.get(reason, [])
        values = f" ({', '.join(seen)})" if seen else ""
        if not examples:
            return f"{count} {reason}{values}"
        more = ", ..." if count > len(examples) else ""
        return f"{count} {reason}{values}: row {', '.join(map(str, examples))}{more}"

    def drop(self, reason: Unusable, row: int) -> None:
        """Count a dropped row by its reason and its number in the source."""
        self.read += 1
        name = str(reason)
        self.dropped[name] = self.dropped.get(name, 0) + 1
        _add_few(self.examples.setdefault(name, []), row, EXAMPLES)
        if reason.value is not None:
            _add_few(self.seen.setdefault(name, []), reason.value, SEEN)

    def keep(self, row: Row, kept: int, unread: Iterable[str]) -> None:
        """Count a row of the source of which so many canonical rows are kept."""
        self.read += kept
        self.kept += kept
        for what in row.changed:
            self.changed[what] = self.changed.get(what, 0) + 1
        for name in unread:
            self.unread[name] = self.unread.get(name, 0) + 1


def _add_few(found: list[Any], value: Any, most: int) -> None:
    if len(found) < most and value not in found:
        found.append(value)


def convert(
    dataset: Dataset, kind: str, *, columns: Mapping[str, str] | None = None, keep: Sequence[str] | None = ()
) -> tuple[Dataset, Report]:
    """Convert the rows of `dataset` to `kind`, and return them with a report on dropped rows.

    Rows of a memory-mapped data set are written to datasets' cache with their report; rows in memory stay in memory.

    Args:
        columns: column of the data set -> recognised column; applied first.
        keep: further columns to keep if the data set has them; None for all, as reward functions receive them: those
            named like an argument of reward functions are left out. Canonical columns take precedence.

    Raises:
        UserError: no row can be used, or the columns are not recognised.
    """
    from alignment.data.reading.arrow_cache import NoRowsError, cached_tables, code_digest, tables_in_memory

    renamed, format = recognised(dataset, kind, columns or {})
    wanted = renamed.column_names if keep is None else keep
    carried = [name for name in wanted if name in renamed.column_names and name not in KINDS[kind]]
    taken = REWARD_ARGUMENTS if keep is None and kind in FOR_FUNCTIONS else ()
    left_out = [name for name in carried if name in taken]
    carried = [name for name in carried if name not in taken]

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
        raise _no_rows(kind, Report(**error.args[0]), renamed) from None
    report = Report(**notes)
    report.notes = _notes(dataset, columns or {}, left_out)
    return rows, report


def recognised(dataset: Dataset, kind: str, columns: Mapping[str, str]) -> tuple[Dataset, Format]:
    """Return the data set with renamed columns, and its format."""
    renamed = rename_columns(dataset, columns)
    first = dataset.with_format(None).select(range(min(TRIED_ROWS, len(dataset))))
    return renamed, recognise(renamed.column_names, kind, columns, rows=first)


def _notes(dataset: Dataset, columns: Mapping[str, str], left_out: Sequence[str]) -> list[str]:
    """Return a sentence for each group of columns that are left out without being read."""
    sources = {ours: theirs for theirs, ours in columns.items()}
    notes = [
        f"the column `{name}` is left out: `columns` gives its name to `{sources[name]}`"
        for name in replaced_columns(dataset, columns)
    ]
    if left_out:
        mapping = written({name: f"data_{name}" for name in left_out})
        notes.append(
            f"columns named like an argument of reward functions are left out: {', '.join(left_out)} "
            f"(`{mapping}` passes them on)"
        )
    return notes


def _no_rows(kind: str, report: Report, renamed: Dataset) -> UserError:
    """Return the error for a data set without a usable row."""
    fix = "inspect a row of the data set, or map other columns with `columns`"
    if row_formats.UNWANTED in report.dropped:
        fix = f"if `{LABEL}` does not judge the reply, `{written({LABEL: f'data_{LABEL}'})}` leaves it out"
    parts = [name for name in MEANINGFUL if any(reason.startswith(f"{name} is a") for reason in report.dropped)]
    if parts and parts[0] not in report.format.split(", ")[:1]:
        fix = f"`{written({parts[0]: f'data_{parts[0]}'})}` leaves that column out; a path such as "
        fix += f"`{written({f'{parts[0]}.KEY': parts[0]})}` takes a part of it"
    return UserError(
        f"No row can be used as {kind}.", got=str(report), expected="at least one row that is complete", fix=fix
    )


def _tables(
    dataset: Dataset, kind: str, format: Format, carried: list[str], notes: dict[str, Any]
) -> Iterator[pyarrow.Table]:
    """Yield tables of canonical rows with the carried columns, and write the report's fields to `notes`."""
    import pyarrow
    from datasets import Features

    present = [name for name in dataset.column_names if name in READ_COLUMNS or name.strip().lower() in MEANINGFUL]
    labels = _labels(dataset, kind, format)
    used = [*(name for name in present if name in optional_columns(kind, format)), *([LABEL] if labels else [])]
    report = Report(kind, ", ".join(dict.fromkeys([*format, *used])))
    schema = Features({**_features(kind), **{name: dataset.features[name] for name in carried}}).arrow_schema
    plain, arrow = dataset.select_columns(present).with_format(None), dataset.with_format("arrow")
    for start in range(0, len(dataset), CONVERTED_ROWS):
        values = plain[start : start + CONVERTED_ROWS]
        rows = [Row(dict(zip(values, row, strict=True))) for row in zip(*values.values(), strict=True)]
        numbered = list(_converted(rows, start, kind, format, labels, report))
        columns = [pyarrow.array([row[name] for _, row in numbered], schema.field(name).type) for name in KINDS[kind]]
        if carried:
            # Without a type the numbers of no row would be of type null, which Arrow cannot take.
            places = pyarrow.array([number - start for number, _ in numbered], pyarrow.int64())
            sources = arrow[start : start + CONVERTED_ROWS].take(places)
            columns += [sources[name] for name in carried]
        yield pyarrow.Table.from_arrays(columns, schema=schema)
    notes.update(asdict(report))


def _labels(dataset: Dataset, kind: str, format: Format) -> Labels | None:
    """Return the reading of the labels; in SFT only if all of them are true or false."""
    if LABEL not in dataset.column_names or not (LABEL in format or kind == row_formats.CONVERSATIONS):
        return None
    rows = dataset.select_columns([LABEL]).with_format(None)
    labels = Labels(value for batch in rows.iter(CONVERTED_ROWS) for value in batch[LABEL])
    chooses = kind == row_formats.CONVERSATIONS and any(name in dataset.column_names for name in row_formats.CHOICES)
    return labels if LABEL in format or (labels.judge and not chooses) else None


def _converted(
    rows: Iterable[Row], start: int, kind: str, format: Format, labels: Labels | None, report: Report
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number in the source, canonical row) of usable rows; all rows are counted in the report."""
    for number, row in enumerate(rows, start=start):
        report.rows += 1
        try:
            _read_label(row, kind, labels)
        except Unusable as reason:
            report.drop(reason, number + 1)
            continue
        found = list(canonical_rows_of(row, kind, format))
        kept = [one for one in found if not isinstance(one, Unusable)]
        for one in found:
            if isinstance(one, Unusable):
                report.drop(one, number + 1)
        if kept:
            report.keep(row, len(kept), _unread(row, format, kept) if kind != "text" else ())
        yield from ((number, one) for one in kept)


def _read_label(row: Row, kind: str, labels: Labels | None) -> None:
    """Put the meaning of a row's label in its place; a label that does not judge the reply is taken out."""
    if labels is None:
        row.pop(LABEL, None)
    elif kind != row_formats.CONVERSATIONS or not is_blank(row[LABEL]):
        row[LABEL] = labels.read(row[LABEL])


def _unread(row: Row, format: Format, kept: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the columns outside the format that may change a row's meaning and whose text its conversations lack.

    A text that contains the whole conversation is another form of it.
    """
    columns = [
        name
        for name, value in row.items()
        if name.strip().lower() in MEANINGFUL and name not in format and not is_blank(value)
    ]
    if not columns:
        return
    turns = [
        " ".join(turn["content"].split())
        for one in kept
        for value in one.values()
        if isinstance(value, list)
        for turn in value
    ]
    written_text = " ".join(turns)
    for name in columns:
        texts = [" ".join(text.split()) for text in _texts(row[name])]
        if any(text not in written_text and not all(turn in text for turn in turns) for text in texts):
            yield name


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, those of messages without their roles."""
    if isinstance(value, str):
        parsed = cell_values.parsed(value)
        yield from [value] if parsed is None else _texts(parsed)
    elif isinstance(value, Mapping):
        for key in (key for key in value if key not in conversations.ROLE_KEYS):
            yield from _texts(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not is_blank(value):
        yield cell_values.number_text(value)


def recognise(
    column_names: Sequence[str],
    kind: str,
    mapping: Mapping[str, str] | None = None,
    rows: Iterable[Mapping[str, Any]] = (),
) -> Format:
    """Return the first format of `kind` whose columns exist; formats with columns that the user mapped come first.

    Args:
        mapping: the recipe's `columns`, which gave the columns their names.
        rows: the first rows under their own names, on which a suggestion is tried.
    """
    wanted = set((mapping or {}).values())
    for format in sorted(FORMATS[kind], key=lambda format: -len(wanted & set(format))):
        if set(format) <= set(column_names):
            return format
    rows = list(rows)
    columns = suggest(rows, kind, mapping)
    raise UserError(
        f"The columns are not recognised as {kind} data.",
        got=f"columns {', '.join(column_names)}",
        expected=f"one of these sets of columns: {EXPECTED[kind]}",
        fix=f"`{written(columns)}` in the recipe (tried on the first rows)"
        if columns
        else _map_yourself(rows, kind, column_names),
    )


def _map_yourself(rows: Sequence[Mapping[str, Any]], kind: str, names: Sequence[str]) -> str:
    """Return the advice to map columns by hand, with a mapping of the data set's own columns to start from."""
    columns = to_complete(rows, kind)
    requests = bool({*names} & {*row_formats.REQUESTS})
    other = (WITHOUT_REPLIES if requests else PLAIN_TEXT).get(kind) or PLAIN_TEXT.get(kind, "")
    if not columns:
        return OTHERWISE[kind] + other
    wanted = [ours for ours in TO_COMPLETE[kind] if ours not in rows[0]]
    choices = ", ".join(wanted[:-1]) + " or " * (len(wanted) > 1) + wanted[-1]
    return f"`{written(columns)}` (for {OPEN} write {choices}, or leave the column out){other}"


# The sets of columns of each kind, as an error names them: most allow several names of a request and its reply.
_ASKED, _REPLIED = "a request (" + ", ".join(row_formats.REQUESTS) + ")", "(" + ", ".join(row_formats.REPLIES) + ")"
_WHOLE = ", ".join(row_formats.DIALOGUES)
EXPECTED = {
    "text": "text | content",
    "sft": f"{_WHOLE} | {_ASKED} and its reply {_REPLIED} | instruction, instances | transcript",
    "preference": f"chosen, rejected | {_ASKED}, chosen, rejected",
    "prompts": f"{_ASKED} | {_WHOLE} | chosen | transcript",
    "kto": f"{_ASKED}, its reply {_REPLIED}, label | {_WHOLE} with label | chosen, rejected",
}
PLAIN_TEXT = dict.fromkeys(("sft", "prompts"), "; plain text without turns is data for `align pretrain`")
WITHOUT_REPLIES = {
    "sft": "; prompts without replies are for a `sample` stage (`write: completions`), which draws the replies"
}
OTHERWISE = {
    "text": "map the column that holds the documents with `columns: {NAME: text}`",
    **dict.fromkeys(("sft", "preference", "prompts", "kto"), "map the data set's columns to these with `columns`"),
}


def _features(kind: str) -> Features:
    from datasets import Features, List, Value

    if kind == "text":
        return Features({"text": Value("string")})
    messages = List({"role": Value("string"), "content": Value("string")})
    return Features({name: Value("bool") if name == "label" else messages for name in KINDS[kind]})
