"""Recipe keys that bring rows within max_length and the model's context: advice that works in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RowLength:
    """The length of a row: characters as `max_characters` counts them, and tokens; for pairs, of the longer side."""

    characters: int
    tokens: int


def characters_within(rows: Sequence[RowLength], tokens: int) -> int | None:
    """Return the largest `max_characters` that leaves only rows of at most so many tokens; None if it leaves none."""
    beyond = [row.characters for row in rows if row.tokens > tokens]
    most = min(beyond) - 1 if beyond else max(row.characters for row in rows)
    return most if most > 0 and any(row.characters <= most for row in rows) else None


def length_fix(rows: Sequence[RowLength], max_length: int | None, context: int | None) -> str:
    """Return the settings with which no row is longer than max_length, and max_length fits the context.

    Args:
        max_length: the recipe's; None: rows are not cut.
        context: of the model, in tokens; None: unknown.
    """
    longest = max((row.tokens for row in rows), default=0)
    if context is None or longest <= context:
        beyond = context is not None and (max_length is None or max_length > context)
        return f"max_length: {context if beyond else max(longest, 2)}"
    setting = "" if max_length == context else f"max_length: {context}, "
    most = characters_within(rows, context)
    if most is None:
        return (
            f"{setting}{'and ' if setting else ''}shorter rows, or a model with a longer context: the shortest row has "
            f"{min(row.tokens for row in rows)} tokens"
        )
    dropped = sum(row.characters > most for row in rows)
    return (
        f"{setting}max_characters: {most} (the model has {context} positions, and the longest row {longest} tokens; "
        f"this drops {dropped} of the {len(rows)} rows looked at)"
    )


def completion_fix(prompts: Sequence[RowLength], completion: int, context: int) -> str:
    """Return the settings with which every prompt leaves room for a completion in the context."""
    longest = max(row.tokens for row in prompts)
    room, most = context - longest, characters_within(prompts, context - completion) if completion < context else None
    if 2 * room >= completion or (most is None and room > 0):
        return f"max_completion_length: {room} (the longest prompt has {longest} tokens)"
    setting = ""
    if most is None:
        completion = min(completion, context // 2)
        setting, most = f"max_completion_length: {completion}, ", characters_within(prompts, context - completion)
    if most is None:
        return f"shorter prompts, or a model with a longer context: it has {context} positions"
    dropped = sum(row.characters > most for row in prompts)
    return f"{setting}max_characters: {most} (this drops {dropped} of the {len(prompts)} prompts looked at)"
