"""Findings of checks: a fault, or a fact worth knowing, with its fix."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

from alignment.errors import UserError, UserErrors

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Finding:
    """One finding of a stage.

    Attributes:
        stage: the stage's name; the runner fills it in.
        severity: error (the stage would fail, or learn something unintended), warning, or note.
        what: one line that names the problem.
        got, expected, fix: as in UserError.
    """

    severity: str
    what: str
    got: str | None = None
    expected: str | None = None
    fix: str | None = None
    stage: str = ""

    def for_stage(self, stage: str) -> Finding:
        """Return the finding with the name of its stage."""
        return replace(self, stage=stage)


def error(what: str, got: object = None, expected: object = None, fix: str | None = None) -> Finding:
    """Return a finding that stops a run."""
    return Finding(ERROR, what, _text(got), _text(expected), fix)


def warning(what: str, got: object = None, expected: object = None, fix: str | None = None) -> Finding:
    """Return a finding that a run reports, without stopping."""
    return Finding(WARNING, what, _text(got), _text(expected), fix)


def note(what: str, got: object = None, expected: object = None, fix: str | None = None) -> Finding:
    """Return a finding that only `align check` prints."""
    return Finding(NOTE, what, _text(got), _text(expected), fix)


def by_share(share: float, limit: float, what: str, got: object, expected: object, fix: str) -> Finding:
    """Return an error if a share of the rows exceeds the limit, otherwise a warning."""
    return (error if share > limit else warning)(what, got, expected, fix)


def from_user_error(mistake: UserError) -> list[Finding]:
    """Return the findings for a user error, which may hold several errors."""
    if isinstance(mistake, UserErrors):
        return [finding for single in mistake.errors for finding in from_user_error(single)]
    return [error(mistake.problem, mistake.got, mistake.expected, mistake.fix)]


SETTING = re.compile(r"\b([a-z]\w*): (\{[^}]*\}|\[[^]]*\]|'[^']*'|[^\s,;()`]+)( in the (\w+ )?recipe)?")
BETWEEN_OPTIONS = re.compile(r"(--\w+ (?:'[^']*'|\S+)), (?=--)")


def in_options(findings: Iterable[Finding], keys: Container[str]) -> list[Finding]:
    """Return findings whose fixes name settings as options, as `fix_in_options` does."""
    return [replace(finding, fix=finding.fix and fix_in_options(finding.fix, keys)) for finding in findings]


def fix_in_options(fix: str, keys: Container[str]) -> str:
    """Return a fix that names settings as options, `--max_length 512`, instead of as a recipe's lines.

    Args:
        keys: the recipe keys, whose settings are rewritten.
    """

    def option(found: re.Match[str]) -> str:
        key, value = found[1], found[2]
        quoted = value if value.startswith("'") else shlex.quote(value)
        return f"--{key} {quoted}" if key in keys else found[0]

    return BETWEEN_OPTIONS.sub(r"\1 ", SETTING.sub(option, fix))


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether any finding is an error."""
    return any(finding.severity == ERROR for finding in findings)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
