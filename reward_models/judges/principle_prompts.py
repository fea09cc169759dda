"""Questions to a judge that state a principle, and templates of one's own for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from alignment.durable.read import read_text
from alignment.errors import UserError, nearest
from reward_models.judges.questions import CHOICE_ALONE, FIELD, RATING_ALONE, RATING_LINE, VERDICT_LINE

PAIR_FIELDS = ("principle", "prompt", "a", "b")
RATING_FIELDS = ("principle", "prompt", "completion", "lowest", "highest")
# A word in braces that is meant as a field: not an argument of a command such as \boxed{yes}.
NAME = re.compile(r"(?<![\w}])\{([a-z_]\w+)\}")

PAIR_QUESTION = """\
Compare the two replies below by this principle alone:
{principle}

A longer reply is not better for being longer, and the order of the replies means nothing.

[Conversation]
{prompt}

[Reply A]
{a}

[Reply B]
{b}
"""
RATING_QUESTION = """\
Rate the reply below by this principle alone, from {lowest} (does not follow it) to {highest} (follows it fully):
{principle}

[Conversation]
{prompt}

[Reply]
{completion}
"""

PRINCIPLE_PAIR_PROMPT, PRINCIPLE_RATING_PROMPT = PAIR_QUESTION + CHOICE_ALONE, RATING_QUESTION + RATING_ALONE
WRITTEN_PRINCIPLE_PAIR_PROMPT = PAIR_QUESTION + VERDICT_LINE
WRITTEN_PRINCIPLE_RATING_PROMPT = RATING_QUESTION + RATING_LINE


def template_text(value: str, known: Sequence[str], needs: Sequence[str], what: str) -> str:
    """A template, given as its text or as a file's path.

    A value that has a field or a line break is a text; any other is a path.

    Args:
        known: the fields that are filled in: PAIR_FIELDS or RATING_FIELDS.
        needs: the fields without which the question makes no sense.
        what: names the template in errors, such as a recipe's key.

    Raises:
        UserError: the file is missing or not UTF-8, a field of `needs` is missing, or a field is misspelt or unknown.
    """
    source, text = what, value
    if not FIELD.search(value) and "\n" not in value:
        source, text = f"{what}: {value}", _read(value, what)
    found = list(dict.fromkeys(FIELD.findall(text)))
    missing = [name for name in needs if name not in found]
    # Single letters may be text, such as \boxed{A}.
    misspelt = [name for name in found if name not in known and len(name) > 1 and nearest(name, known)]
    strange = [name for name in dict.fromkeys(NAME.findall(text)) if name not in (*known, *misspelt)]
    if not missing and not misspelt and not strange:
        return text
    if not missing and not misspelt:
        raise UserError(
            f"{source}: unknown {'fields' if len(strange) > 1 else 'field'} {_listed(strange)}",
            got=_listed(found),
            expected=f"the fields {_listed(known)}",
            fix=f"remove {_listed(strange)}, or write it without braces",
        )
    raise UserError(
        f"{source}: " + (f"the question does not show {_listed(missing)}" if missing else "a field is misspelt"),
        got=_listed(found) or "no fields",
        expected=f"{_listed(needs)}, and if wanted {_listed([name for name in known if name not in needs])}",
        fix="; ".join(
            [f"write {{{nearest(name, known)[0]}}} for {{{name}}}" for name in misspelt]
            or [f"write {_listed(missing)} where the texts belong"]
        ),
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def pair_template(value: str, what: str, with_principle: bool = True) -> str:
    """A template of a question about two replies, checked as `template_text` does.

    Args:
        with_principle: whether the question has to state a principle.
    """
    return template_text(value, PAIR_FIELDS, ("a", "b", *(["principle"] if with_principle else [])), what)


def rating_template(value: str, what: str, with_principle: bool = True) -> str:
    """A template of a question about one reply, checked as `template_text` does."""
    return template_text(value, RATING_FIELDS, ("completion", *(["principle"] if with_principle else [])), what)


def _read(file: str, what: str) -> str:
    expected = "a text with fields such as {prompt}, or a file with that text"
    if not Path(file).is_file():
        raise UserError(f"{what}: no file {file}", expected=expected)
    return read_text(file, f"{what}: {file}")
