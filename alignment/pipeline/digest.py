"""SHA-256 digests of what a stage is made from: its recipe, the local files it names, its parents' checkpoints."""

import glob
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alignment.pipeline.recipe import strings

# Written beside the weights, and different each time though the model is the same.
NOT_MODEL = {"README.md", "training_args.bin"}


def digest_value(value: Any) -> str:
    """The digest of a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: Path, leave_out: Iterable[str] = ()) -> str:
    """The digest of a folder's files: their names and what they hold."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in leave_out)
    return digest_value([[str(path.relative_to(folder)), digest_file(path)] for path in files])


def digest_checkpoint(folder: Path) -> str:
    return digest_folder(folder, NOT_MODEL)


def data_digests(recipe: dict[str, Any]) -> dict[str, str]:
    """Digests of the local files that a recipe names: files under any key, folders and globs under data keys."""
    digests = {}
    for key, text in strings(recipe):
        path = Path(text).expanduser()
        if len(text) > 1000 or "\n" in text:  # prose, such as a chat template
            continue
        if path.is_file():
            digests[text] = digest_file(path)
        elif "data" in key and path.is_dir():
            digests[text] = digest_folder(path)
        elif "data" in key and "*" in text:
            digests[text] = digest_value([[name, digest_file(Path(name))] for name in sorted(glob.glob(text))])
    return digests


def digest_recipe(recipe: dict[str, Any]) -> str:
    """The digest of a resolved recipe and of the data files it names."""
    return digest_value({"recipe": recipe, "data": data_digests(recipe)})
