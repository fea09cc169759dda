"""Reading the files of a run directory whose content may have another shape than `align run` wrote."""

import sys
from pathlib import Path
from typing import Any

from alignment.durable.read import AGAIN, read_json
from alignment.errors import UserError
from alignment.pipeline.recipes.typecheck import describe_value

ENTRIES = ("stages", "evals")  # of pipeline.json: name -> entry
MAPPINGS = ("inputs", "report", "headline", "samples", "recipe", "parents", "metrics")
TEXTS = ("status", "error")  # of an entry


def read_pipeline(path: Path) -> dict[str, Any]:
    """pipeline.json, with a mapping of mappings in `stages` and `evals`.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is damaged.
    """
    content = read_json(path)
    for key in ENTRIES:
        content[key] = _mapping(path, key, content.get(key) or {})
        for name, entry in content[key].items():
            _require_mappings(path, f"{key}.{name}.", _mapping(path, f"{key}.{name}", entry))
            for text in TEXTS:
                if not isinstance(entry.get(text) or "", str):
                    raise _damaged(path, f"{key}.{name}.{text}", entry[text], "a text")
    # `recipe` of the run itself is the path of its folder.
    _require_mappings(path, "", {key: value for key, value in content.items() if key != "recipe"})
    _require_mappings(path, "report.", content.get("report") or {})
    return content


def read_stage(path: Path) -> dict[str, Any]:
    """stage.json: what a stage wrote when it ended.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is damaged.
    """
    content = read_json(path)
    _require_mappings(path, "", content)
    return content


def figure_of(value: Any) -> float | int | None:
    """The value if it is a finite number, otherwise None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number and abs(value) <= sys.float_info.max else None


def _require_mappings(path: Path, place: str, content: dict[str, Any]) -> None:
    for key in MAPPINGS:
        _mapping(path, f"{place}{key}", content.get(key) or {})


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged(path, key, value, "an object")
    return value


def _damaged(path: Path, key: str, value: Any, expected: str) -> UserError:
    return UserError(f"{path} is damaged", got=f"{key}: {describe_value(value)}", expected=expected, fix=AGAIN)
