"""The table of all stages' recipe keys, by which a misspelt key is refused without the seconds that TRL's import takes.

`align recipe` explains keys by it; the help of TRL's and transformers' keys is their own text.

`key_table.tsv` is made from the stages' dataclasses, most of whose fields are transformers' and TRL's. It counts only
for the versions of the two that it was made with: `read` returns nothing for others, and the dataclasses are asked.
After a change to a stage's dataclass, or of versions, make it again:

    python -m alignment.pipeline.recipes.key_table
"""

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import Enum
from importlib import import_module, metadata
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from alignment.durable.atomic import write_text
from alignment.pipeline.recipes.keys import OURS, Key, Keys, keys_of_module
from alignment.stages import STAGES
from alignment.yaml_text import write_yaml

FILE = Path(__file__).with_suffix(".tsv")
LIBRARIES = ("transformers", "trl")
EVALS = "evals"  # the keys of pipeline.yaml's `evals` that are keyword arguments of eval.evaluate
COLUMNS = ("key", "stages", "type", "required", "example", "parent", "renamed", "default", "owner", "set_by", "help")
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
    default: str = ""
    owner: str = ""
    set_by: str = ""
    help: str = ""


def read(stage: str, file: Path = FILE) -> Keys | None:
    """Return the recipe keys of a stage; None if the table was made with other versions of the libraries."""
    versions, header, *lines = file.read_text(encoding="utf-8").splitlines()
    if versions != installed() or "dev" in versions:  # a version in development may change without its number
        return None
    listed = (dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines)
    rows = [Row(**cells) for cells in listed if stage in cells.pop("stages").split()]
    hints = {text: hint_of(text) for text in {row.type for row in rows} - {""}}
    return Keys(
        tuple(key_of(row, hints[row.type]) for row in rows if row.type),
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


def made(stage: str) -> Keys:
    """Return the keys of a stage's dataclasses, or of evaluations; the import takes seconds."""
    if stage != EVALS:
        return keys_of_module(import_module(f"alignment.stages.{stage}"))
    from alignment.pipeline.evals import SET_BY_JOB
    from eval.harness.run_suite import evaluate

    return keys_of_function(evaluate, SET_BY_JOB)


def table_text(stages: Iterable[str] = (*STAGES, EVALS)) -> str:
    """Return the table of these stages, made from their dataclasses."""
    found: dict[Row, list[str]] = {}
    for stage in stages:
        for row in rows_of(made(stage)):
            stages_of_row = found.setdefault(row, [])
            if stage not in stages_of_row:
                stages_of_row.append(stage)
    cells = [{**row._asdict(), "stages": " ".join(names)} for row, names in found.items()]
    lines = ["\t".join(line[column] for column in COLUMNS) for line in cells]
    return "\n".join([installed(), "\t".join(COLUMNS), *lines]) + "\n"


def rows_of(keys: Keys) -> Iterator[Row]:
    """Yield the rows of a stage's keys."""
    for key in keys.fields:
        yield Row(
            key.name,
            text_of(key.hint),
            required="required" * key.required,
            example="" if key.example is None else json.dumps(key.example),
            parent=keys.parents.get(key.name, ""),
            default=key.default,
            owner=key.owner,
            set_by=key.set_by,
            help=key.help,
        )
    for name, new in keys.renamed.items():
        yield Row(name, renamed=new)


def key_of(row: Row, hint: Any) -> Key:
    """Return the key of a row."""
    example = json.loads(row.example) if row.example else None
    explained = {"owner": row.owner, "set_by": row.set_by, "help": row.help}
    return Key(row.key, hint, bool(row.required), example, row.default, **explained)


def keys_of_function(function: Callable[..., Any], without: Collection[str] = ()) -> Keys:
    """Return the keyword arguments of a function as keys of this project, with the help of its docstring.

    The function's module delays annotations, so that they are texts.

    Args:
        without: the arguments that are no keys.
    """
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", inspect.getdoc(function) or "", flags=re.MULTILINE)
    help = {name: _sentence(text) for name, text in entries}
    parameters = [one for one in inspect.signature(function).parameters.values() if one.kind is one.KEYWORD_ONLY]
    return Keys(
        tuple(
            Key(
                one.name,
                hint_of(one.annotation),
                default=write_yaml(one.default),
                owner=OURS,
                help=help.get(one.name, ""),
            )
            for one in parameters
            if one.name not in without
        )
    )


def _sentence(text: str) -> str:
    """Text of a docstring as a sentence on one line."""
    line = " ".join(text.split())
    return line[:1].upper() + line[1:]


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
