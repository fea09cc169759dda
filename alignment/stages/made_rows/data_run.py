"""One run of a data stage: rows are made part by part, and put together in STAGE/data once all are there.

STAGE/parts/     what is made so far; removed at the end
STAGE/data/      train-00000.parquet, ..., left_out.jsonl, account.json, README.md, manifest.json,
                     lineage.json
STAGE/data.json  the account of the rows that the stage read
STAGE/left_out.jsonl  what is no row, of a stage that made none
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.callbacks.clock import StageClock
from alignment.data.arguments import DataArguments
from alignment.durable.atomic import write_json
from alignment.durable.manifest import new_checkpoint
from alignment.durable.unwritable import make_folder
from alignment.errors import UserError, raise_all
from alignment.progress import ProgressLine
from alignment.stages import PARTS
from alignment.stages.keys.trainer_keys import LARGEST_SEED
from alignment.stages.made_rows.data_card import write_data_card
from alignment.stages.made_rows.made_parts import Make, Part, Parts, in_parts, plain, totals
from alignment.stages.shared.result import StageResult
from alignment.stages.shared.saving import rows_of_stages, stage_of
from alignment.text import short_number

SHARD_ROWS = 10_000
LEFT_OUT = "left_out.jsonl"
TRIED = 100  # rows whose values are looked at before any is made
EXAMPLES = 3  # rows shown in the card and the report


@dataclass
class DataStageKeys:
    """Recipe keys that every data stage has."""

    output_dir: str = field(metadata={"help": "The stage's folder; the rows go to its subfolder `data`."})
    seed: int = field(default=42, metadata={"help": "Seed of whatever is drawn."})
    rows_per_part: int = field(
        default=64,
        metadata={"help": "Rows that are read for each part. A stopped stage loses the part that it was making."},
    )

    def __post_init__(self) -> None:
        errors = []
        if self.rows_per_part < 1:
            errors.append(UserError("rows_per_part leaves no rows", got=self.rows_per_part, expected="1 or more"))
        if not 0 <= self.seed <= LARGEST_SEED:
            errors.append(UserError("seed is out of range", got=self.seed, expected=f"0 to {LARGEST_SEED}"))
        raise_all(errors)


class DataRun:
    """One run of a data stage, in a new folder or in that of an interrupted run.

    Args:
        method: the stage's name in the table of stages.
        args: the recipe's keys.
    """

    def __init__(self, method: str, args: DataStageKeys):
        self.method, self.size = method, args.rows_per_part
        self.folder = Path(args.output_dir)
        make_folder(self.folder)
        self.parts = Parts(self.folder / PARTS)
        self.clock = StageClock()
        self.read = self.number = 0
        self.before = 0.0  # seconds of the parts of earlier attempts

    def make(self, items: Sequence[Any], make: Make, unit: str) -> None:
        """Make the parts that are not there yet.

        Args:
            items: what the rows are made of, in the same order in every attempt.
            make: makes a part of some items; it must depend on nothing else that changes between attempts.
            unit: what an item is, for the line of progress.
        """
        for item in items[:TRIED]:
            plain(item)  # raises for values that no row can hold
        self.read, self.number = len(items), -(-len(items) // self.size)
        there = [number for number in range(self.number) if self.parts.has(number)]
        self.before = sum(self.parts.read(number).seconds for number in there)
        done, made = min(len(there) * self.size, len(items)), Part([])
        with ProgressLine(self.folder.name, len(items), done=done, unit=unit) as line:
            for number, start, some in in_parts(items, self.size):
                if number in there:
                    continue
                begun = time.monotonic()
                part = make(start, some)
                part.seconds = round(time.monotonic() - begun, 3)
                self.parts.write(number, part)
                made = Part([], tokens=made.tokens + part.tokens, seconds=made.seconds + part.seconds)
                done += len(some)
                line.advance(done)
                line.report(figures_of(part, made))

    def made(self) -> Iterator[Part]:
        """Yield all parts, in order."""
        return (self.parts.read(number) for number in range(self.number))

    def finish(
        self,
        parents: dict[str, str | None],
        data: DataArguments,
        kind: str,
        metrics: Mapping[str, Any] | None = None,
        look: Sequence[str] = (),
    ) -> StageResult:
        """Put the parts together in STAGE/data, and write stage.json.

        Args:
            parents: recipe key -> the checkpoint that it names; the first is the one that made the rows.
            data: the rows that were read.
            kind: what the rows are, a key of `formats.KINDS`.
            metrics: for stage.json, in addition to the counts.
            look: if no row is made, where to look for the reason, a clause each.

        Raises:
            UserError: no row was made. The parts are removed: the next run makes them afresh.
        """
        rows, counts, tokens = totals(self.made())
        if not rows:
            raise self._without_rows(counts, look)
        models = [stage_of(path) for path in parents.values() if path is not None]
        named = {key: stage_of(path) for key, path in (parents | rows_of_stages(data)).items() if path is not None}
        account = {"read": self.read, "rows": rows, "kind": kind, "counts": dict(counts), "tokens": tokens}
        with new_checkpoint(self.folder / "data") as folder:
            write_shards(folder, self.made)
            write_json(folder / "account.json", account, sync=False)
            write_left_out(folder / LEFT_OUT, self.made())
            write_data_card(folder, self.folder.name, self.method, named, data.title, account, self.examples())
        result = StageResult(
            stage=self.folder.name,
            method=self.method,
            checkpoint=f"{self.folder.name}/data",
            parent=next(iter(models), None),
            parents=named,
            seconds=round(self.before + self.clock.seconds, 2),
            peak_memory_gb=self.clock.peak_memory_gb,
            trainable_parameters=0,
            total_parameters=0,
            tokens=tokens,
            metrics={"rows": rows, "read": self.read, "kind": kind, "counts": dict(counts), **(metrics or {})},
        )
        result.write(self.folder)
        self.parts.remove()
        (self.folder / LEFT_OUT).unlink(missing_ok=True)  # of an attempt that made no row
        return result

    def _without_rows(self, counts: Mapping[str, int], look: Sequence[str]) -> UserError:
        """Keep what was left out, remove the parts, and return the error for a stage without rows."""
        path = self.folder / LEFT_OUT
        write_left_out(path, self.made())
        self.parts.remove()
        look = [*([f"{path} has each row and the reason"] if path.exists() else []), *look]
        return UserError(
            f"the stage {self.folder.name} made no row",
            got=", ".join(f"{reason}: {count}" for reason, count in counts.items()) or "no reason is known",
            expected="at least one row",
            fix="; ".join([*look, "change the recipe or the data; the next run makes all rows afresh"]),
        )

    def examples(self) -> list[dict[str, Any]]:
        """The first rows."""
        found: list[dict[str, Any]] = []
        for part in self.made():
            found += part.rows[: EXAMPLES - len(found)]
            if len(found) == EXAMPLES:
                break
        return found


def figures_of(part: Part, made: Part) -> list[str]:
    """What the line of progress shows: tokens per second of this attempt, and rows of the last part."""
    speed = [f"{short_number(made.tokens / made.seconds)} tokens/s"] if made.tokens and made.seconds else []
    return [f"{len(part.rows)} rows in the last part", *speed]


def write_shards(folder: Path, made: Any) -> None:
    """Write the rows of all parts as Parquet files of at most SHARD_ROWS rows, of one schema with every row's columns.

    Args:
        made: yields the parts; called three times.

    Raises:
        UserError: values of a column are of types that no type holds.
    """
    import pyarrow
    import pyarrow.parquet

    names = dict.fromkeys(name for part in made() for row in part.rows for name in row)

    def table(rows: list[dict[str, Any]], schema: pyarrow.Schema | None = None) -> pyarrow.Table:
        return pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows], schema=schema)

    try:
        schemas = [table(part.rows).schema for part in made() if part.rows]
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        for number, rows in enumerate(shards(made())):
            pyarrow.parquet.write_table(table(rows, schema), folder / f"train-{number:05}.parquet")
    except (pyarrow.ArrowException, OverflowError) as error:
        raise UserError(
            "the rows do not fit one table",
            got=error,
            expected="values of one type in each column",
            fix="remove the column from the data that the stage reads, or give its values one type",
        ) from error


def write_left_out(path: Path, parts: Iterator[Part]) -> None:
    """Write what is no row as JSON lines, each with the reason; no file if there is nothing."""
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for part in parts for one in part.left_out]
    if lines:
        path.write_text("".join(lines), encoding="utf-8")


def shards(parts: Iterator[Part]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of all parts in lists of SHARD_ROWS, the last one shorter."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        rows += part.rows
        while len(rows) >= SHARD_ROWS:
            yield rows[:SHARD_ROWS]
            rows = rows[SHARD_ROWS:]
    if rows:
        yield rows
