"""Unknown recipe keys, which may be misspelt options of a verb: both are given as `--name value`."""

from collections.abc import Collection, Sequence
from typing import Any

from alignment.errors import UserError, UserErrors, nearest


class UnknownKey(UserError):
    """A recipe key that does not exist.

    Args:
        key: the key.
        known: the keys that it may be a misspelling of.
    """

    def __init__(self, problem: str, key: str, known: Collection[str], **parts: Any):
        self.key, self.known = key, known
        super().__init__(problem, **parts)


def suggest_options(error: UserError, overrides: Sequence[str], options: Sequence[str]) -> UserError:
    """Return an error in which the fix for an unknown key is the option that is nearest to it, if no key is nearer.

    Args:
        overrides: the recipe keys of the command line: a key of the recipe's file is no misspelt option.
        options: the options of the verb: `--fresh`.
    """
    if isinstance(error, UserErrors):
        return UserErrors([suggest_options(one, overrides, options) for one in error.errors])
    if not isinstance(error, UnknownKey):
        return error
    given = [text.partition("=")[0] for text in overrides if text.startswith("--")]
    spelled = {option.removeprefix("--").replace("-", "_"): option for option in options if option.startswith("--")}
    near = nearest(error.key, [*error.known, *spelled])
    written = next((option for option in given if option[2:].replace("-", "_") == error.key), None)
    if written is None or not near or near[0] in error.known:
        return error
    fix = f"did you mean the option {spelled[near[0]]}?"
    return UserError(f"{error.problem}, and no option {written}", got=error.got, expected=error.expected, fix=fix)
