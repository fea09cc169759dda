"""The data and the model that a made recipe was fitted to, in its header: whether the same command may use it again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.durable.manifest import sha256
from alignment.pipeline.records.digest import data_digests, digest_value

LINE = "# fitted to "
SHORT = 12  # characters of a digest
# Files of a model that decide on lengths and memory; those of its weights do not.
EXAMINED = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Fitted:
    """What a recipe in a file was fitted to.

    Attributes:
        inputs: the digests of data and model, as `inputs_of` wrote them.
        edited: whether the file was changed since it was made.
    """

    inputs: str
    edited: bool


def inputs_of(keys: Mapping[str, Any], model: str) -> str:
    """Return the digests of the data and the model of a command.

    Args:
        keys: the recipe keys of the data.
        model: a folder, or a hub id, which stands for itself.
    """
    folder = Path(model).expanduser()
    files = [[name, sha256(folder / name)] for name in EXAMINED if (folder / name).is_file()]
    digests = {"data": data_digests(dict(keys)), "model": files or model}
    return ", ".join(f"{name} {digest_value(value)[:SHORT]}" for name, value in digests.items())


def sealed(text: str, after: str, inputs: str) -> str:
    """Return a recipe's text with a line about what it was fitted to, below the line that starts with `after`."""
    lines = text.splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines, start=1) if line.startswith(after))
    return "".join([*lines[:place], f"{LINE}{inputs}, written as {_digest(text)}\n", *lines[place:]])


def fitted(recipe: Path) -> Fitted | None:
    """Return what the recipe in a file was fitted to; None if it does not say."""
    text = recipe.read_text(encoding="utf-8")
    found = re.search(rf"^{LINE}(.*), written as (\w+)\n", text, re.MULTILINE)
    if found is None:
        return None
    return Fitted(found[1], _digest(text[: found.start()] + text[found.end() :]) != found[2])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]
