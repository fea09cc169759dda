"""What a check finds: one thing that is wrong, or worth knowing, with the way to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from alignment.errors import UserError, UserErrors

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)


@dataclass(frozen=True)
class Finding:
    """One finding of a stage.

    Attributes:
        stage: the stage's name; the runner fills it in.
        severity: error (the stage would fail, or learn something else than meant), warning, or note.
        what: one line that names it; got, needed and mend as in UserError.
    """

    severity: str
    what: str
    got: str | None = None
    expected: str | None = None
    fix: str | None = None
    stage: str = ""

    def of(self, stage: str) -> Finding:
        return replace(self, stage=stage)


def error(what: str, got: object = None, expected: object = None, fix: str | None = None) -> Finding:
    return Finding(ERROR, what, _text(got), _text(expected), fix)


def warning(what: str, got: object = None, expected: object = None, fix: str | None = None) -> Finding:
    return Finding(WARNING, what, _text(got), _text(expected), fix)


def note(what: str, got: object = None, expected: object = None, fix: str | None = None) -> Finding:
    return Finding(NOTE, what, _text(got), _text(expected), fix)


def by_share(share: float, limit: float, what: str, **parts) -> Finding:
    """An error where a share of the rows exceeds what is allowed, a warning below."""
    return (error if share > limit else warning)(what, **parts)


def from_user_error(mistake: UserError) -> list[Finding]:
    """The findings that an error stands for: one, or each of several."""
    if isinstance(mistake, UserErrors):
        return [finding for one in mistake.errors for finding in from_user_error(one)]
    return [error(mistake.problem, mistake.got, mistake.expected, mistake.fix)]


def has_errors(findings: Iterable[Finding]) -> bool:
    return any(finding.severity == ERROR for finding in findings)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
