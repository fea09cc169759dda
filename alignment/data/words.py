"""Splitting of texts into words, for scripts with and without spaces between words.

Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan have no spaces between words: each character with its marks
counts as a word. Korean is written with spaces.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

ASCII_WORD, WORD_CHARACTER = re.compile(r"\w+"), re.compile(r"\w")
# Letters of scripts without spaces, their digits left out: a number is one word.
UNSPACED = (
    "\u0e01-\u0e4f"  # Thai
    "\u0e81-\u0ecf\u0edc-\u0edf"  # Lao
    "\u0f00\u0f40-\u0fbc"  # Tibetan
    "\u1000-\u103f\u104a-\u109f"  # Burmese
    "\u1780-\u17d3"  # Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese characters
    "\u3041-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # Japanese syllables, Bopomofo
)
UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
PIECE = re.compile(f"[{UNSPACED}]|[^{UNSPACED}]+")
WIDE = re.compile(
    "[\uff01-\uff5e\uff61-\uffdc\uffe0-\uffee]+"
)  # full-width Latin letters, half-width katakana and Hangul
LAST_MARK = 0x1FFFF


def folded(text: str) -> str:
    """Normalise the characters of a text: composed (NFC), and of the usual width."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), text))


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters, digits and _, and characters of unspaced scripts."""
    pattern = ASCII_WORD if text.isascii() else word_pattern()
    return pattern.findall(folded(text).lower())


@cache
def word_pattern() -> re.Pattern[str]:
    """Return a pattern of a word or a character of an unspaced script, with its marks (vowel signs, accents)."""
    marks = _marks()
    spaced = rf"[^\W{UNSPACED}]"
    return re.compile(rf"{spaced}+(?:[{marks}]+{spaced}*)*|(?=\w)[{UNSPACED}][{marks}]*")


def _marks() -> str:
    """Return all combining marks except those of emoji, as ranges of a character class."""
    emoji = {*range(0x20D0, 0x2100), *range(0xFE00, 0xFE10)}
    marks = [code for code in range(LAST_MARK) if unicodedata.category(chr(code))[0] == "M" and code not in emoji]
    starts = [code for code, before in zip(marks, [None, *marks], strict=False) if before != code - 1]
    ends = [code for code, after in zip(marks, [*marks[1:], None], strict=False) if after != code + 1]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


def is_unspaced(word: str) -> bool:
    """Return whether a word of `words` is a character of an unspaced script."""
    return UNSPACED_LETTER.match(word) is not None


def split_words(text: str) -> list[str]:
    """Split a text at white space, and in unspaced scripts into characters without punctuation."""
    pieces = []
    for chunk in text.split():
        if chunk.isascii() or not UNSPACED_LETTER.search(chunk):
            pieces.append(chunk)
        else:
            pieces += [piece for piece in PIECE.findall(chunk) if WORD_CHARACTER.search(piece)]
    return pieces
