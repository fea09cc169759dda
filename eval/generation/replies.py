"""What can be said of replies without a judge: pure functions of texts."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from alignment.data.words import split_words

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Different n-grams of words over all n-grams of words in the texts (Li et al. 2016); None where there is none.

    It falls as texts get more or longer: compare sets of like size. In scripts without spaces a character is a word.
    """
    grams = []
    for text in texts:
        words = split_words(text)
        grams += zip(*(words[start:] for start in range(n)), strict=False)
    return len(set(grams)) / len(grams) if grams else None


def normalised(text: str) -> str:
    """Without case, ASCII punctuation, English articles and extra white space, as SQuAD compares answers."""
    return " ".join(ARTICLES.sub(" ", text.casefold().translate(PUNCTUATION)).split())


def exact_match(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[float]:
    """1 for each prediction that equals its reference, or one of them, once both are normalised; else 0."""
    matches = []
    for prediction, accepted in zip(predictions, references, strict=True):
        accepted = [accepted] if isinstance(accepted, str) else accepted
        matches.append(float(normalised(prediction) in {normalised(one) for one in accepted}))
    return matches
