"""SHA-256 digests of a stage's recipe and of the local files that it names."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from alignment.data import tinyworld
from alignment.data.reading.files import local_files
from alignment.data.reading.python_sources import installed_versions, is_python_sources, parse_python_sources
from alignment.data.reading.sources import is_local, is_tinyworld
from alignment.durable.manifest import sha256
from alignment.pipeline.recipes.recipe import strings
from alignment.redaction import redacted

LONGEST_PATH = 1000


def digest_value(value: Any) -> str:
    """The digest of a JSON-like value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def data_digests(recipe: dict[str, Any], stages: Collection[str] = ()) -> dict[str, str]:
    """Digests of the local files that a recipe names: data sets, and files (`FILE` or `FILE:name`) in any key.

    Args:
        stages: stages that the recipe names as its data, whose digests are those of parents.
    """
    digests = {}
    for key, text in strings(recipe):
        if text in stages:
            continue
        names_data = key.endswith("dataset_name") or key == "datasets.name"
        if names_data and is_tinyworld(text):
            # Its rows follow from its code and tables.
            files = sorted(Path(tinyworld.__file__).parent.iterdir())
            made_by = [file for file in files if file.suffix in (".py", ".yaml")]
            digests[text] = digest_value([[file.name, sha256(file)] for file in made_by])
        elif names_data and is_python_sources(text):
            wanted = parse_python_sources(text, "text")
            digests[text] = digest_value([wanted.docstrings, installed_versions(wanted.packages)])
        elif names_data and is_local(text):
            digests[text] = digest_value([[str(file), sha256(file)] for file in local_files(text)])
        elif "\n" not in text and len(text) < LONGEST_PATH:
            names = (text, text.partition("?")[0].rpartition(":")[0])
            file = next((Path(name) for name in names if name and Path(name).is_file()), None)
            if file:
                digests[text] = sha256(file)
    return digests


def digest_recipe(recipe: dict[str, Any], data: dict[str, str]) -> str:
    """The digest of a resolved recipe without its secrets, and of its data files (`data_digests`)."""
    return digest_value({"recipe": redacted(recipe), "data": data})
