"""Mistakes a user can make, reported as: what was got, what was expected, how to fix it."""

import difflib
from collections.abc import Sequence

from .masking import mask_text  # relative, as exported checkpoints take both files along


class UserError(Exception):
    """A mistake that the user can fix; the command line prints it without a traceback.

    Args:
        problem: one line that names what is wrong.
        got: what was found.
        expected: what would have been accepted.
        fix: what to do about it.
    """

    def __init__(self, problem: str, *, got: object = None, expected: object = None, fix: str | None = None):
        self.problem, self.got, self.expected, self.fix = problem, got, expected, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [("got", self.got), ("expected", self.expected), ("fix", self.fix)]
        lines = [f"  {label + ':':10}{value}" for label, value in parts if value is not None]
        return mask_text("\n".join([self.problem, *lines]))


class UserErrors(UserError):
    """Several mistakes found in one pass, reported together."""

    def __init__(self, errors: list[UserError]):
        self.errors = errors
        super().__init__("\n\n".join(str(error) for error in errors))


class OutOfMemory(UserError):
    """Training did not fit the memory; it may with a smaller micro-batch."""


class Diverged(UserError):
    """Training gives no finite numbers any more; it may again from an earlier checkpoint."""


class Interrupted(KeyboardInterrupt):
    """The work was asked to stop before its end.

    Args:
        signum: the signal that asked; SIGXCPU stands for a time budget that is spent.
        message: where it stopped, and how to go on.
    """

    def __init__(self, signum: int, message: str):
        self.message = message
        super().__init__(signum, message)


def raise_all(errors: list[UserError]) -> None:
    """Raise nothing, the one error, or all of them together."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UserErrors(errors)


def unknown(what: str, got: str, known: Sequence[str], expected: str | None = None) -> UserError:
    """The error for a name that is none of those known; it asks for the nearest."""
    close = difflib.get_close_matches(got, known, n=1)
    fix = f"did you mean {close[0]}?" if close else "take one of those"
    return UserError(f"Unknown {what}: {got}.", got=got, expected=expected or f"one of {', '.join(known)}", fix=fix)
