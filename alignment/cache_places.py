"""The environment's folders for caches of the Hugging Face libraries."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

PLACES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_ASSETS_CACHE",
    "HF_DATASETS_CACHE",
    "HF_MODULES_CACHE",
    "HF_TOKEN_PATH",
    "XDG_CACHE_HOME",
)


def unset_empty_places(environment: MutableMapping[str, str] = os.environ) -> None:
    """Unset variables that are set but empty, before the libraries are imported.

    The libraries would take the empty text for a folder: they would write caches into the working folder, and read a
    token from there.
    """
    for name in PLACES:
        if environment.get(name) == "":
            del environment[name]
