"""Parquet and Arrow files as Arrow tables of one schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

    Batches = tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]


def read_parquet(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables of Parquet files; columns that a file lacks are null in its rows."""
    import pyarrow.parquet

    from alignment.data.reading.arrow_cache import BATCH_ROWS

    def batches_of(file: Path) -> Batches:
        parquet = pyarrow.parquet.ParquetFile(file)
        return parquet.schema_arrow, parquet.iter_batches(BATCH_ROWS)

    return _columnar(files, batches_of, "a Parquet file")


def read_arrow(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables of Arrow files in the stream format, which datasets writes, or in the file format."""
    import pyarrow

    def batches_of(file: Path) -> Batches:
        source = pyarrow.memory_map(str(file))
        try:
            stream = pyarrow.ipc.open_stream(source)
            return stream.schema, iter(stream)
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_file(source)
            return table.schema, (table.get_batch(number) for number in range(table.num_record_batches))

    return _columnar(files, batches_of, "Arrow files, of the stream or the file format")


def _columnar(files: list[Path], batches_of: Callable[[Path], Batches], expected: str) -> Iterator[pyarrow.Table]:
    """Yield the batches of files as tables of the unified schema."""
    import pyarrow

    schemas = []
    for file in files:
        with _damage(file, expected):
            schemas.append(batches_of(file)[0])
            unified(schemas[-1:])  # names that are not UTF-8 show here, and not only where no file is known
    common = unified(schemas)
    for file in files:
        with _damage(file, expected):
            for batch in batches_of(file)[1]:
                batch.validate(full=True)  # damaged offsets would end the process, damaged text would be an error later
                table = with_json(pyarrow.Table.from_batches([batch]), common)
                whole = pyarrow.concat_tables([common.empty_table(), table], promote_options="permissive")
                yield whole.replace_schema_metadata(common.metadata)


@contextmanager
def _damage(file: Path, expected: str) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Cannot read {file}.",
            got=str(error),
            expected=expected,
            fix="download or write the file again",
        ) from None


def unified(schemas: list[pyarrow.Schema]) -> pyarrow.Schema:
    """Return a schema for the columns of all schemas.

    A column whose types differ beyond promotion, or that datasets has no type for, is JSON, which keeps its values.
    """
    import pyarrow

    for names in (schema.names for schema in schemas):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(
                f"Several columns have one name: {', '.join(twice)}.",
                got=f"columns {', '.join(names)}",
                expected="columns with distinct names",
                fix="rename the columns, and write the file again",
            )
    fields = []
    for name in dict.fromkeys(name for schema in schemas for name in schema.names):
        own = [pyarrow.schema([schema.field(name)]) for schema in schemas if name in schema.names]
        try:
            field = pyarrow.unify_schemas(own, promote_options="permissive").field(0)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            field = pyarrow.field(name, pyarrow.json_())
        fields.append(field if _has_feature(field) else pyarrow.field(name, pyarrow.json_()))
    schema = pyarrow.schema(fields)
    # datasets' metadata describes the types of one file.
    return schema.with_metadata(schemas[0].metadata) if all(other == schema for other in schemas) else schema


def _has_feature(field: pyarrow.Field) -> bool:
    import pyarrow
    from datasets import Features

    try:
        Features.from_arrow_schema(pyarrow.schema([field.remove_metadata()]))
    except ValueError:  # maps, views of lists, run ends, foreign extensions
        return False
    return True


def with_json(table: pyarrow.Table, schema: pyarrow.Schema) -> pyarrow.Table:
    """Return a table with those columns as JSON that are JSON in the schema."""
    import pyarrow

    for number, field in enumerate(table.schema):
        if schema.field(field.name).type == pyarrow.json_() != field.type:
            values = table.column(number).to_pylist(maps_as_pydicts="strict")
            texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
            column = pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(texts, pyarrow.string()))
            table = table.set_column(number, field.name, column)
    return table


def as_json(rows: Dataset, names: Collection[str]) -> Dataset:
    """Return a data set with the named columns as JSON."""
    import pyarrow
    from datasets import Features, Json

    if not names:
        return rows
    features = Features({name: Json() if name in names else feature for name, feature in rows.features.items()})
    types = {name: pyarrow.json_() if name in names else pyarrow.null() for name in rows.column_names}
    changed = rows.with_format("arrow").map(
        with_json, batched=True, features=features, fn_kwargs={"schema": pyarrow.schema(types)}
    )
    return changed.with_format(None)
