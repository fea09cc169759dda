"""A fact about the installation or the machine, and what follows from it."""

from dataclasses import dataclass

# Works; works at a cost, or is optional and missing; required and missing, too old or broken.
OK, NOTE, FAULT = "ok", "note", "fault"


@dataclass(frozen=True)
class Fact:
    """A line of the examination.

    Attributes:
        section: the heading that it is printed under.
        name: of the thing.
        value: what was found.
        status: OK, NOTE or FAULT.
        effect: what it lets you do, or costs you.
        fix: a command or setting that changes it.
    """

    section: str
    name: str
    value: str
    status: str = OK
    effect: str | None = None
    fix: str | None = None
