"""The cache of the Hugging Face libraries, whether they work offline, and whether there is a token."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from alignment.doctor.facts import NOTE, Fact
from alignment.durable.unwritable import require_writable
from alignment.errors import UserError
from alignment.text import size_text

SECTION = "Hugging Face"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its variables
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
COUNTED_SECONDS = 1.0


def hub_facts(environment: Mapping[str, str] = os.environ) -> Iterator[Fact]:
    """Yield the facts about cache, offline state and token. No value of a token is read into one."""
    home = hub_home(environment)
    yield cache_fact(home)
    offline = next((name for name in OFFLINE if environment.get(name, "").upper() in TRUE), None)
    if offline:
        value, effect = f"{offline}={environment[offline]}", "only models and data in the cache, or given as a path"
        yield Fact(SECTION, "offline", value, NOTE, effect, f"unset {offline}, to download")
    else:
        yield Fact(SECTION, "offline", "no", effect="models and data sets are downloaded by their id")
    yield token_fact(home, environment)


def hub_home(environment: Mapping[str, str]) -> Path:
    """Return the folder of cache and token, as huggingface_hub finds it."""
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expandvars(environment.get("HF_HOME") or f"{base}/huggingface")).expanduser()


def cache_fact(home: Path) -> Fact:
    """Return the cache's place and size, and whether it can be written."""
    size, whole = folder_size(home)
    value = f"{home}, {'' if whole else 'more than '}{size_text(size)}"
    try:
        require_writable(home)
    except UserError:
        effect, fix = (
            "nothing can be downloaded, and no tokenised data kept",
            "export HF_HOME=FOLDER, one you can write",
        )
        return Fact(SECTION, "cache", f"{value}, not writable", NOTE, effect, fix)
    return Fact(SECTION, "cache", f"{value}, writable")


def folder_size(folder: Path, seconds: float = COUNTED_SECONDS) -> tuple[int, bool]:
    """Return the bytes of a folder's files, without those behind links, and whether all were counted in time."""
    total, until = 0, time.monotonic() + seconds
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # removed since, as lock files are
                continue
        if time.monotonic() > until:
            return total, False
    return total, True


def token_fact(home: Path, environment: Mapping[str, str]) -> Fact:
    """Return whether there is a token, and where; never its value."""
    file = Path(environment.get("HF_TOKEN_PATH") or home / "token").expanduser()
    name = next((name for name in TOKENS if environment.get(name)), None)
    if name or file.is_file():
        return Fact(SECTION, "token", f"set, by {name or file}", effect="gated models whose licence you have accepted")
    return Fact(SECTION, "token", "none", NOTE, "gated models (Llama, Gemma) cannot be downloaded", "hf auth login")
