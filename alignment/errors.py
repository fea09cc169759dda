"""User errors: the problem, what was got, what was expected, and how to fix it."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence

from .redaction import redact_text  # relative: exported checkpoints carry both files

LISTED = 12  # names, at most, in a suggestion


class UserError(Exception):
    """A mistake that the user can fix; the command line prints it without a traceback.

    Args:
        problem: one line that names what is wrong.
        got: what was found.
        expected: what would be accepted.
        fix: what to do about it.
    """

    def __init__(self, problem: str, *, got: object = None, expected: object = None, fix: str | None = None):
        self.problem, self.got, self.expected, self.fix = problem, got, expected, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [("got", self.got), ("expected", self.expected), ("fix", self.fix)]
        lines = [f"  {label + ':':10}{value}" for label, value in parts if value is not None]
        return redact_text("\n".join([self.problem, *lines]))


class UserErrors(UserError):
    """Several user errors found in one pass, reported together."""

    def __init__(self, errors: list[UserError]):
        self.errors = errors
        super().__init__("\n\n".join(str(error) for error in errors))


class OutOfMemory(UserError):
    """Training ran out of memory; it may fit with a smaller micro-batch."""


class Diverged(UserError):
    """Loss or gradients are no longer finite; training from an earlier checkpoint may recover."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop before its end.

    Args:
        signum: the signal; SIGXCPU means that the time of --max-time is up.
        message: where the run stopped, and how to resume.
    """

    def __init__(self, signum: int, message: str):
        self.message = message
        super().__init__(signum, message)


def raise_all(errors: list[UserError]) -> None:
    """Raise a single error as it is, several as UserErrors, and nothing if there are none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UserErrors(errors)


@contextlib.contextmanager
def gathered(errors: list[UserError]) -> Iterator[None]:
    """Add the mistakes that are raised inside to `errors`."""
    try:
        yield
    except UserErrors as several:
        errors += several.errors
    except UserError as error:
        errors.append(error)


def nearest(name: object, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names most similar to a misspelt one, at most `count`, with a similarity of at least `cutoff`.

    Capital letters make no difference.
    """
    folded: dict[str, list[str]] = {}
    for one in known:
        folded.setdefault(one.casefold(), []).append(one)
    close = difflib.get_close_matches(str(name).casefold(), folded, n=count, cutoff=cutoff)
    return [one for text in close for one in folded[text]][:count]


def did_you_mean(name: object, known: Iterable[str], otherwise: str | None = None, cutoff: float = 0.6) -> str | None:
    """The fix for a misspelt name: `did you mean 'sft'?`, or `otherwise` if no known name is similar."""
    near = nearest(name, known, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else otherwise


def suggestion(name: object, known: Iterable[str]) -> str | None:
    """The fix for a misspelt name: the nearest known name, or else a list of the known names."""
    names = [str(name) for name in known]
    return did_you_mean(name, names, "valid: " + ", ".join(names[:LISTED]))


def unknown(what: str, got: str, known: Sequence[str], expected: str | None = None) -> UserError:
    """The error for a name that is not among those known; it suggests the nearest."""
    fix = did_you_mean(got, known, "choose one of these")
    return UserError(f"Unknown {what}: {got}.", got=got, expected=expected or f"one of {', '.join(known)}", fix=fix)
