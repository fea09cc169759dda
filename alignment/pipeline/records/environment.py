"""The environment of a run: versions, git commit and hardware, as pipeline.json records them."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import alignment
import eval
import reward_models
from alignment.durable.manifest import sha256
from alignment.pipeline.recipes.packaged_recipes import FOLDER
from alignment.pipeline.records.digest import digest_value

CODE = (".py", ".yaml", ".jinja")
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "alignment-pipeline")


def versions() -> dict[str, str | None]:
    """Package -> version; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state() -> dict[str, Any] | None:
    """The commit of this project's checkout and whether tracked files differ from it; None outside a checkout."""
    root = Path(alignment.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def code_digest() -> str:
    """The digest of this project's code and tables, which identifies the version even without git.

    It is the same in a checkout and in its wheel, which has the recipes inside a package.
    """
    files = []
    for package in (alignment, eval, reward_models):
        folder = Path(str(package.__file__)).parent
        inside = (path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != FOLDER)
        found = sorted(path for path in inside if path.suffix in CODE)
        files += [[package.__name__, path.relative_to(folder).as_posix(), sha256(path)] for path in found]
    return digest_value(files)


def hardware() -> dict[str, Any]:
    """CPU model, usable cores, memory in GiB, and the names of the GPUs."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cpu": _cpu_model(), "cores": cores, "memory_gb": round(memory, 1), "gpus": gpus}


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
