"""The confidence of a written verdict or rating, from the log-probabilities of the token that states it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial

from reward_models.judges.judge_answers import MARKUP, VERDICT, Reader, bare_rating, rating_label, side

Token = tuple[str, Mapping[str, float]]  # a token's text, and the likeliest texts in its place with log-probabilities
TIES = ("tie", "ti", "tied", "draw")


def graded_preference(tokens: Sequence[Token], value: float) -> float | None:
    """The probability that the first reply is better, a tie counting half, of an answer that was read as `value`.

    None if no token states the verdict, or if its likeliest alternatives contradict the verdict.
    """
    return _graded(tokens, value, VERDICT, _verdict)


def graded_rating(tokens: Sequence[Token], value: float, lowest: int, highest: int) -> float | None:
    """The expected rating of an answer that was read as `value`; None if no single token states it, or see above.

    Scales beyond 0 to 9 have no graded rating: a token `1` may be the beginning of a 10.
    """
    if lowest < 0 or highest > 9:
        return None
    read = partial(bare_rating, lowest=lowest, highest=highest)
    return _graded(tokens, value, rating_label(lowest, highest), read)


def _graded(tokens: Sequence[Token], value: float, label: re.Pattern[str], read: Reader) -> float | None:
    """The mean of the values in the place of the token that states `value`, weighted by their probabilities."""
    at = _stating(tokens, value, label, read)
    if at is None:
        return None
    masses: dict[float, float] = {}
    for text, logprob in tokens[at][1].items():
        one = read(_bare(text))
        if one is not None:
            masses[one] = masses.get(one, 0.0) + math.exp(logprob)
    total = sum(masses.values())
    if not total or max(masses, key=lambda one: masses[one]) != value:
        return None
    return sum(one * mass for one, mass in masses.items()) / total


def _stating(tokens: Sequence[Token], value: float, label: re.Pattern[str], read: Reader) -> int | None:
    """The place of the token that states the value: the first after the last label, or else in the last line."""
    text, starts = "", []
    for token, _ in tokens:
        starts.append(len(text))
        text += token
    end = _after_label(text, label)
    for at in range(len(tokens)):
        if starts[at] + len(tokens[at][0]) > end and read(_bare(tokens[at][0])) == value:
            return at
    return None


def _after_label(text: str, label: re.Pattern[str]) -> int:
    """Where the value of the last labelled line begins; without a label, where the last line begins."""
    found, start = text.rstrip().rfind("\n") + 1, 0
    for line in text.splitlines(keepends=True):
        # Markup is blanked, so that places stay those of the text.
        plain = MARKUP.sub(lambda mark: " " * len(mark[0]), line)
        indent = len(plain) - len(plain.lstrip())
        labels = list(label.finditer(plain.strip()))
        if labels:
            found = start + indent + labels[-1].end()
        start += len(line)
    return found


def _verdict(text: str) -> float | None:
    return 0.5 if text.lower() in TIES else side(text)


def _bare(text: str) -> str:
    return MARKUP.sub("", text).strip(" \t\n[](){}\"'.,;!:")
