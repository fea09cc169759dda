"""Figures of replies without a judge: diversity and exact match. Pure functions of texts."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from alignment.data.words import split_words

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Share of distinct n-grams among all word n-grams in the texts (Li et al. 2016); None without n-grams.

    The share falls as texts get longer or more numerous: compare sets of similar size. In scripts without spaces a
    character is a word.
    """
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = split_words(text)
        grams += zip(*(words[start:] for start in range(n)), strict=False)
    return len(set(grams)) / len(grams) if grams else None


def normalised(text: str) -> str:
    """The text without case, ASCII punctuation, English articles and extra white space, as SQuAD compares answers."""
    return " ".join(ARTICLES.sub(" ", text.casefold().translate(PUNCTUATION)).split())


def exact_match(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[float]:
    """1 for each prediction that equals its reference, or one of its references, after normalisation; otherwise 0."""
    matches = []
    for prediction, accepted in zip(predictions, references, strict=True):
        accepted = [accepted] if isinstance(accepted, str) else accepted
        matches.append(float(normalised(prediction) in {normalised(one) for one in accepted}))
    return matches
