"""What this project requires of other packages, and what is installed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alignment
from alignment.doctor.facts import FAULT, Fact

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROJECT = "alignment-pipeline"
SECTION = "versions"
# Always listed, and imported (by these names) to see whether they work. All other requirements share a line.
MAIN = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "lm-eval")
SLOW_IMPORT = 180  # seconds after which an import is given up


@dataclass
class Imports:
    """What importing packages showed.

    Attributes:
        broken: package -> why it cannot be imported.
        torch: what torch says of itself and of the GPUs (import_probe.py); None if it was not imported.
    """

    broken: dict[str, str] = field(default_factory=dict)
    torch: dict[str, Any] | None = None


def project_requirements() -> tuple[str, list[str]]:
    """Return the Python versions and the packages that this project requires, as its metadata names them.

    In a checkout those are the checkout's: an editable installation may be of an earlier state.
    """
    file = Path(alignment.__file__).resolve().parents[1] / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == PROJECT:
            return project["requires-python"], project["dependencies"]
    try:
        installed = metadata.metadata(PROJECT)
    except metadata.PackageNotFoundError:
        return "", []
    required = [line for line in metadata.requires(PROJECT) or [] if "extra ==" not in line]
    return installed["Requires-Python"] or "", required


def installed_version(package: str) -> str | None:
    """Return the installed version of a package; None without one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def version_facts(python: str, required: Sequence[str], imports: Imports) -> Iterator[Fact]:
    """Yield a fact for Python, for each main package and for each that is at fault, and one for the others.

    Args:
        python: the Python versions required.
        required: the packages required.
    """
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        fix = "pip install packaging"
        yield Fact(SECTION, "packaging", "missing", FAULT, "versions cannot be compared, and no stage runs", fix)
        return
    own = platform.python_version()
    fits = SpecifierSet(python).contains(own, prereleases=True)
    yield Fact(SECTION, "python", f"{own} (needs {python})", *([] if fits else [FAULT, "too old", f"Python {python}"]))
    others = 0
    for requirement in map(Requirement, required):
        fact = package_fact(requirement, imports.broken.get(requirement.name))
        if requirement.name in MAIN or fact.status == FAULT:
            yield fact
        else:
            others += 1
    yield Fact(SECTION, "others", f"{others} more required packages, of fitting versions")


def package_fact(requirement: Requirement, broken: str | None) -> Fact:
    """Return the fact about a required package.

    Args:
        broken: why it cannot be imported.
    """
    name, found = requirement.name, installed_version(requirement.name)
    wanted = ",".join(sorted(map(str, requirement.specifier), reverse=True))  # >=5.23,<6
    spec = f"'{name}{wanted}'"
    if found is None:
        return Fact(SECTION, name, f"missing (needs {wanted})", FAULT, None, f"pip install {spec}")
    value = f"{found} (needs {wanted})"
    if not requirement.specifier.contains(found, prereleases=True):
        return Fact(SECTION, name, value, FAULT, "another version is needed", f"pip install {spec}")
    if broken:
        fix = f"pip install --force-reinstall --no-deps {spec}"
        return Fact(SECTION, name, value, FAULT, f"cannot be imported: {broken}", fix)
    return Fact(SECTION, name, value)


def import_packages(packages: Sequence[str]) -> Imports:
    """Import packages in processes of their own: a new one begins after each that is broken."""
    found, modules = Imports(), {package.replace("-", "_"): package for package in packages}
    names = list(modules)
    while names:
        imported, why = _import_until_broken(names, found)
        if imported < len(names):
            found.broken[modules[names[imported]]] = why
        names = names[imported + 1 :]
    return found


def _import_until_broken(names: Sequence[str], found: Imports) -> tuple[int, str]:
    """Return how many packages could be imported, and why the next could not."""
    # The child looks for packages where this process does (-P: not in the working folder too), and warns of nothing.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-P", "-m", "alignment.doctor.import_probe", *names]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SLOW_IMPORT)
    except subprocess.TimeoutExpired as slow:
        output, why = (slow.stdout or b"").decode(), f"the import takes longer than {SLOW_IMPORT} s"
    else:
        output, why = done.stdout, _reason(done)
    reports = [json.loads(line) for line in output.splitlines() if line.startswith('{"imported"')]
    found.torch = next((report["torch"] for report in reports if "torch" in report), found.torch)
    return len(reports), why


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a process ended early: its signal, or the last line that it wrote."""
    if done.returncode < 0:
        return f"the process was ended by signal {-done.returncode}"
    return next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
