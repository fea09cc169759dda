"""The table of all stages' recipe keys, by which a misspelt key is refused without the seconds that TRL's import takes.

`key_table.tsv` is made from the stages' dataclasses, most of whose fields are transformers' and TRL's. It counts only
for the versions of the two that it was made with: `read` returns nothing for others, and the dataclasses are asked.
After a change to a stage's dataclass, or of versions, make it again:

    python -m alignment.pipeline.recipes.key_table
"""

import json
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from importlib import import_module, metadata
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from alignment.durable.atomic import write_text
from alignment.pipeline.recipes.keys import Key, Keys, keys_of_module
from alignment.stages import STAGES

FILE = Path(__file__).with_suffix(".tsv")
LIBRARIES = ("transformers", "trl")
COLUMNS = ("key", "stages", "type", "required", "example", "parent", "renamed")
TYPES = {"Any": Any, "Literal": Literal}


class Row(NamedTuple):
    """A key as the table has it, the same for each of its stages; `type` is an annotation, `example` JSON.

    A renamed key has no type, but what replaces it.
    """

    key: str
    type: str = ""
    required: str = ""
    example: str = ""
    parent: str = ""
    renamed: str = ""


def read(stage: str, file: Path = FILE) -> Keys | None:
    """Return the recipe keys of a stage; None if the table was made with other versions of the libraries."""
    versions, header, *lines = file.read_text(encoding="utf-8").splitlines()
    if versions != installed() or "dev" in versions:  # a version in development may change without its number
        return None
    listed = (dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines)
    rows = [Row(**cells) for cells in listed if stage in cells.pop("stages").split()]
    hints = {text: hint_of(text) for text in {row.type for row in rows} - {""}}
    return Keys(
        tuple(Key(row.key, hints[row.type], bool(row.required), example_of(row)) for row in rows if row.type),
        {row.key: row.renamed for row in rows if row.renamed},
        {row.key: row.parent for row in rows if row.parent},
    )


def installed() -> str:
    """Return the installed versions of the libraries, as the table's first line has them."""
    return "made with " + ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # imported from its sources
        return "dev"


def table_text(stages: Iterable[str] = STAGES) -> str:
    """Return the table of these stages, made from their dataclasses."""
    found: dict[Row, list[str]] = {}
    for stage in stages:
        for row in rows_of(keys_of_module(import_module(f"alignment.stages.{stage}"))):
            stages_of_row = found.setdefault(row, [])
            if stage not in stages_of_row:
                stages_of_row.append(stage)
    cells = [{**row._asdict(), "stages": " ".join(names)} for row, names in found.items()]
    lines = ["\t".join(line[column] for column in COLUMNS) for line in cells]
    return "\n".join([installed(), "\t".join(COLUMNS), *lines]) + "\n"


def rows_of(keys: Keys) -> Iterator[Row]:
    """Yield the rows of a stage's keys."""
    for key in keys.fields:
        example = "" if key.example is None else json.dumps(key.example)
        yield Row(key.name, text_of(key.hint), "required" * key.required, example, keys.parents.get(key.name, ""))
    for name, new in keys.renamed.items():
        yield Row(name, renamed=new)


def example_of(row: Row) -> str | int | float | None:
    """Return the example of a row."""
    return json.loads(row.example) if row.example else None


def text_of(hint: Any) -> str:
    """Return an annotation as text; an enumeration becomes its values, another class its name."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Ellipsis:
        return "..."
    if hint is NoneType:
        return "None"
    if origin in (Union, UnionType):
        return " | ".join(map(text_of, inner))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return text_of(Literal[tuple(member.value for member in hint)])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if origin:
        return f"{origin.__name__}[{', '.join(map(text_of, inner))}]"
    return hint.__name__


def hint_of(text: str) -> Any:
    """Return the annotation of a text; a class that is not built in becomes an empty one, which no YAML value fits."""
    others = {name: type(name, (), {}) for name in re.findall(r"\b[A-Z]\w+", text)}
    holder = type("Holder", (), {"__annotations__": {"hint": text}})
    return get_type_hints(holder, others | TYPES | {"None": None})["hint"]


if __name__ == "__main__":
    write_text(FILE, table_text())
    print(f"written: {FILE}")
