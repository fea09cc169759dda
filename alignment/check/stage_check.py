"""The outcome of checking one stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alignment.check.findings import Finding, from_user_error
from alignment.pipeline.recipes.packaged_recipes import short_name

if TYPE_CHECKING:
    from alignment.check.material import Material
    from alignment.errors import UserError
    from alignment.pipeline.stage_spec import StageSpec


@dataclass(frozen=True)
class StageCheck:
    """The findings of one stage, and its material if its rows could be read.

    Attributes:
        source: the recipe's path.
        costs: lines about memory and time.
    """

    stage: str
    source: str
    findings: list[Finding]
    material: Material | None = None
    costs: list[str] = field(default_factory=list)


def refused(spec: StageSpec, mistakes: Sequence[UserError]) -> StageCheck:
    """Return the outcome for a stage with mistakes in its keys, of which nothing else is checked."""
    findings = [found.for_stage(spec.name) for mistake in mistakes for found in from_user_error(mistake)]
    return StageCheck(spec.name, short_name(spec.recipe_path), findings)


def merged(checks: Sequence[StageCheck]) -> list[Finding]:
    """Return all findings; a finding that several stages share appears once, with all their names."""
    stages: dict[Finding, list[str]] = {}
    for finding in (finding for check in checks for finding in check.findings):
        stages.setdefault(finding.for_stage(""), []).append(finding.stage)
    return [finding.for_stage(", ".join(dict.fromkeys(names))) for finding, names in stages.items()]
