"""The option `columns` of a file of held-out rows: its columns -> recognised columns, as in a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.errors import UserError

EXPECTED = "{column of the file: recognised column}, or COLUMN:RECOGNISED,COLUMN:RECOGNISED"


def parse_columns(given: object, what: str) -> dict[str, str]:
    """Read a mapping of columns: a mapping, its YAML or JSON, or `Frage:question,Antwort:answer`.

    Args:
        what: the option's owner, for errors.

    Raises:
        UserError: there is no such mapping in it.
    """
    found: Any = given
    if isinstance(given, str):
        found = _from_yaml(given, what) if given.lstrip().startswith("{") else _from_pairs(given)
    names = [name for pair in found.items() for name in pair] if isinstance(found, Mapping) else []
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"columns of {what} cannot take this value.", got=given, expected=EXPECTED)
    return dict(found)


def with_columns(suites: Sequence[str], given: str | None) -> list[str]:
    """Add `--columns` to the files of rows among suites; a file with the option in its own name keeps that.

    Raises:
        UserError: none of the suites is such a file.
    """
    from eval.harness.suite import is_file_of_rows, parse_suite

    if given is None:
        return list(suites)
    option = "columns=" + json.dumps(parse_columns(given, "--columns"), ensure_ascii=False)
    option = option.replace("%", "%25").replace("&", "%26")
    named = {suite: parse_suite(suite) for suite in suites}
    takes = [suite for suite, (name, _) in named.items() if is_file_of_rows(name)]
    if not takes:
        raise UserError(
            "--columns applies to files of held-out rows",
            got=", ".join(suites) or "no --suite",
            expected="--suite FILE, such as held-out.jsonl",
            fix="leave --columns out: other suites define their own columns",
        )
    return [
        f"{suite}{'?' if named[suite][0] == suite else '&'}{option}"
        if suite in takes and "columns" not in named[suite][1]
        else suite
        for suite in suites
    ]


def renamed(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rename the columns of rows as training does: `columns` comes first, and its names replace other columns."""
    from alignment.data.columns.column_names import value_at

    taken = set(columns.values())
    kept = [{key: value for key, value in row.items() if key not in taken and key not in columns} for row in rows]
    return [
        old | {new: row[name] if name in row else value_at(row, name.split(".")) for name, new in columns.items()}
        for old, row in zip(kept, rows, strict=True)
    ]


def suggested(file: Path, mapping: Mapping[str, str]) -> str:
    """The suite with a mapping, to paste into a shell."""
    return f"--suite '{file}?columns={','.join(f'{name}:{new}' for name, new in mapping.items())}'"


def _from_yaml(text: str, what: str) -> Any:
    from alignment.yaml_text import parse_yaml

    return parse_yaml(text, f"columns of {what}")


def _from_pairs(text: str) -> dict[str, str]:
    """Pairs with a colon in each; a name on the left may hold colons itself."""
    pairs = [part.rpartition(":") for part in text.split(",")]
    return {name.strip(): new.strip() for name, _, new in pairs}
