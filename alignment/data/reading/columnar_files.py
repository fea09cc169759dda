"""Parquet and Arrow files as Arrow tables of one schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.errors import UserError

if TYPE_CHECKING:
    import pyarrow


def read_parquet(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables of Parquet files; columns that a file lacks are null in its rows."""
    import pyarrow.parquet

    from alignment.data.reading.arrow_cache import BATCH_ROWS

    def batches_of(file: Path) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
        parquet = pyarrow.parquet.ParquetFile(file)
        return parquet.schema_arrow, parquet.iter_batches(BATCH_ROWS)

    return _columnar(files, batches_of, "Parquet")


def read_arrow(files: list[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables of Arrow files in the stream format, which datasets writes, or in the file format."""
    import pyarrow

    def batches_of(file: Path) -> tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]:
        source = pyarrow.memory_map(str(file))
        try:
            stream = pyarrow.ipc.open_stream(source)
            return stream.schema, iter(stream)
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_file(source)
            return table.schema, (table.get_batch(number) for number in range(table.num_record_batches))

    return _columnar(files, batches_of, "Arrow")


def _columnar(
    files: list[Path],
    batches_of: Callable[[Path], tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]],
    what: str,
) -> Iterator[pyarrow.Table]:
    """Yield the batches of files as tables of the unified schema."""
    import pyarrow

    try:
        schemas = [batches_of(file)[0] for file in files]
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        if any(other != schema for other in schemas):
            schema = schema.remove_metadata()  # metadata of datasets, which describes the types of one file
        for file in files:
            for batch in batches_of(file)[1]:
                table = pyarrow.Table.from_batches([batch])
                whole = pyarrow.concat_tables([schema.empty_table(), table], promote_options="permissive")
                yield whole.replace_schema_metadata(schema.metadata)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OSError) as error:
        names = ", ".join(map(str, files))
        raise UserError(
            f"Cannot read {names}.", got=str(error), expected=f"{what} files with compatible columns"
        ) from None
