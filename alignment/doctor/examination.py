"""The whole examination, as text for the terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

from alignment.doctor.advice import Recommendation, recommend
from alignment.doctor.extras import extra_facts
from alignment.doctor.facts import FAULT, Fact
from alignment.doctor.graphics import gpu_facts
from alignment.doctor.hugging_face import hub_facts
from alignment.doctor.processor import compiler_facts, disk_fact, memory_facts, processor_facts
from alignment.doctor.requirements import (
    MAIN,
    Imports,
    import_packages,
    installed_version,
    project_requirements,
    version_facts,
)

INDENT = " " * 22


@dataclass(frozen=True)
class Examination:
    """What `align doctor` found.

    Attributes:
        facts: in the order of their sections.
        recommended: the recipe that fits the machine.
    """

    facts: list[Fact]
    recommended: Recommendation

    @property
    def usable(self) -> bool:
        """Whether nothing required is missing, too old or broken."""
        return all(fact.status != FAULT for fact in self.facts)


def examine() -> Examination:
    """Examine installation and machine; importing the main packages takes most of the time."""
    imports = import_packages([name for name in MAIN if installed_version(name)])
    return examination(imports)


def examination(imports: Imports) -> Examination:
    """Gather the facts, given what importing the main packages showed."""
    gpus = (imports.torch or {}).get("gpus", [])
    facts = [
        *version_facts(*project_requirements(), imports),
        *processor_facts(),
        *gpu_facts(imports.torch),
        *compiler_facts(bool(gpus)),
        *memory_facts(),
        disk_fact(Path.cwd()),
        *hub_facts(),
        *extra_facts(bool(gpus)),
    ]
    has_bitsandbytes = installed_version("bitsandbytes") is not None
    return Examination(facts, recommend([gpu["memory"] for gpu in gpus], has_bitsandbytes))


def as_text(found: Examination, width: int | None = None) -> str:
    """The examination as a screen of text: a line per fact, and its fix below it.

    Args:
        width: where lines are wrapped; default: nowhere.
    """
    lines = []
    for section, group in groupby(found.facts, key=lambda fact: fact.section):
        lines += [section, *(line for fact in group for line in fact_lines(fact, width))]
    faults = [fact.name for fact in found.facts if fact.status == FAULT]
    verdict = f"not usable: see {', '.join(faults)}" if faults else "usable"
    advice = found.recommended
    closing = [f"alignment-pipeline is {verdict}", f"recommended recipe: {advice.recipe} ({advice.why})"]
    return "\n".join([*lines, "", *closing, *([] if faults else [f"next: {advice.command}"])])


def fact_lines(fact: Fact, width: int | None = None) -> list[str]:
    """The lines of a fact."""
    effect = f": {fact.effect}" if fact.effect else ""
    lines = [f"  {fact.status:5} {fact.name:14}{fact.value}{effect}"]
    lines += [f"{INDENT}fix: {fact.fix}"] if fact.fix else []
    if width is None:
        return lines
    return [
        part
        for line in lines
        for part in wrap(line, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)
    ]


def as_dict(found: Examination) -> dict[str, Any]:
    """The examination as values for JSON."""
    return {
        "usable": found.usable,
        "facts": [asdict(fact) for fact in found.facts],
        "recommended": asdict(found.recommended),
    }
