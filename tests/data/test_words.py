"""Texts as words: the same as ever in scripts with spaces, and characters in those without."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.words import folded, is_unspaced, split_words, words

SPACED = (
    "abcXYZ0159_ ,.-!?'\n\u00e9\u00fc\u00df\u00d1\u00e6\u0159\u0142\u00b2\u00bd\u2019\u2026"  # Latin
    "\u0436\u042f\u03bb\u03a9\ud55c\uae00"  # Cyrillic, Greek, Korean
)


@given(st.text(SPACED, max_size=60))
def test_texts_with_spaces_have_the_words_that_they_always_had(text):
    """Latin with accents, Cyrillic, Greek and Korean: hashes of them stay."""
    text = unicodedata.normalize("NFC", text)
    assert words(text) == re.findall(r"\w+", text.lower())
    assert split_words(text) == text.split()
    assert folded(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u5317\u4eac\uff0c\u4f60\u597d\u3002", "\u5317 \u4eac \u4f60 \u597d"),
        ("\u7528Python 3\u7f16\u7a0b", "\u7528 python 3 \u7f16 \u7a0b"),
        ("\u30ab\u30e1\u30e9\u3067\u3059", "\u30ab \u30e1 \u30e9 \u3067 \u3059"),
        ("\uff76\uff9e\uff8a", "\u30ac \u30cf"),  # half-width katakana, the voicing mark of its own
        ("\uff21\uff22\uff23\u3000\uff11\uff12", "abc 12"),  # full width
        (
            "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
            "\u0e2a \u0e27\u0e31 \u0e2a \u0e14\u0e35",
        ),  # Thai vowels stay on their letters
        ("\u0e52\u0e55\u0e56\u0e58", "\u0e52\u0e55\u0e56\u0e58"),  # a number is one word
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
        ),  # Hindi: marks end no word
        ("\ud55c\uad6d\uc5b4 \ub9d0", "\ud55c\uad6d\uc5b4 \ub9d0"),
        ("cafe\u0301", "caf\u00e9"),
        ("1\ufe0f\u20e3 ok", "1 ok"),
        ("\U00020000\U00020001", "\U00020000 \U00020001"),
    ],
)
def test_words_by_hand(text, expected):
    assert words(text) == expected.split()
    assert words(unicodedata.normalize("NFD", text)) == expected.split()


def test_which_words_are_characters():
    assert [is_unspaced(word) for word in words("\u5317 a1 \ud55c \u0e01 \u0939 7 \u0e52")] == [
        True, False, False, True, False, False, False,
    ]  # fmt: skip


def test_lengths_in_words_count_characters_and_no_punctuation_of_unspaced_scripts():
    assert split_words("\u4f60\u597d\uff0cworld! yes, it's") == ["\u4f60", "\u597d", "\uff0cworld!", "yes,", "it's"]
    assert len(split_words("\u5317\u4eac\u3002\u5929\u6d25\u3002")) == 4
