"""Whether a reply equals an answer after normalisation, in which a number stays the number that it is.

The normalisation is SQuAD's (Rajpurkar et al. 2016): case, punctuation, articles and redundant white space do not
count. SQuAD's script removes every punctuation sign, so that 314 is right for 3.14, 5 for -5 and C for C++; here signs
that carry meaning are kept.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from reward_models.rules.answers import same_answer

# A number as a whole word: 7, -2.5, .5, 1,000, 1e-3; not a part of 2024-01-05, 1.2.3, 3,14 or 007.
NUMBER = re.compile(
    r"(?<!version )(?<!release )(?<!chapter )(?<!section )"  # version 1.10 is not version 1.1
    r"(?<![\w.,:/])(?<!\d[-+])[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d{1,3})?"
    r"(?!\w|[.,:/]\w|[-+]\d)"
)
EXPONENT = re.compile(r"(?<![\w.,])[\d.,]*\de$")  # what is before the minus of 1e-05
# A power, in which 10^2 is not 102: as ^, or as ** where that is not the mark of bold text.
CARET = re.compile(r"(?<=[\w)\]}]) ?\^ ?(?=[-\w({])")
STARS = re.compile(r"(?<=[\w)])\*\*(?=[-\w(])|(?<=[\d)]) \*\* (?=[-\d(])")
LONGEST_NUMBER = 400  # digits before an exponent
WORDS_ASIDE = re.compile(r"[^\W\d_]{2}\.[^\W\d_]{2}")
LEADING_ZEROS = re.compile(r"[-+]?0\d")  # a code such as 007
MINUS = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2013", "-"))
OMITTED = str.maketrans("", "", "$%`|~\u200b\ufeff")  # symbols that may be missing, and signs without width
# An article before a word, not the letter A of `vitamin A` or of the list `A, B`.
ARTICLE = re.compile(r"\b(?:a|an|the)\s+(?=[^\w\s]{0,2}\w)(?!(?:and|or)\b)")
MATHEMATICAL = "+<=>^"


def exact_match(doc: dict, results: list[str]) -> dict[str, float]:
    """Return 1.0 if the reply is one of the answers, ignoring case, punctuation, articles and white space."""
    return {"exact_match": float(normalise(results[0]) in {normalise(answer) for answer in doc["answers"]})}


def final_answer_match(doc: dict, results: list[str]) -> dict[str, float]:
    """Return 1.0 if the final answer of a reply with reasoning is one of the answers.

    The final answer is marked by #### or \\boxed{}, stated (`the answer is 72`), or the last number.
    """
    return {"exact_match": float(any(same_answer(results[0], answer) for answer in doc["answers"]))}


def normalise(text: str) -> str:
    """Normalise a text for comparison; a text of nothing but punctuation and articles stays as it is."""
    plain = ARTICLE.sub("", " ".join(_fold(text).split()))
    kept = "".join(sign for place, sign in enumerate(plain) if _counts(plain, place))
    numbers = NUMBER.sub(lambda found: _canonical(found[0]), kept)
    return " ".join(numbers.split()) or " ".join(text.casefold().split())


def _fold(text: str) -> str:
    """Fold case, full-width signs and forms of the minus, and drop symbols that may be missing."""
    signs = (unicodedata.normalize("NFKC", sign) if _is_wide(sign) else sign for sign in text)
    folded = unicodedata.normalize("NFC", "".join(signs).casefold()).translate(MINUS).translate(OMITTED)
    if folded.count("**") == 1:
        folded = STARS.sub("^", folded)
    return CARET.sub("\0", folded).replace("^", "").replace("\0", "^")  # elsewhere it may be missing


def _is_wide(sign: str) -> bool:
    return unicodedata.decomposition(sign).startswith(("<wide>", "<narrow>"))


def _counts(text: str, place: int) -> bool:
    """Whether a sign of a text is more than punctuation: a letter, or a sign that changes a number or a name."""
    sign = text[place]
    if not unicodedata.category(sign).startswith("P") or sign in MATHEMATICAL:
        return True
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if after.isdigit() and (before.isdigit() or (sign in "-." and not before.isalnum())):
        return not (before == " " and sign == "-" and not text[: place - 1].strip())  # "- 5" is handled as a list item
    if sign == "-" and after == "." and text[place + 2 : place + 3].isdigit():
        return not before.isalnum()
    if sign == "-" and after.isdigit() and before == "e":
        return EXPONENT.search(text[max(0, place - LONGEST_NUMBER) : place]) is not None
    if sign in "/." and before.isalpha() and after.isalpha():  # m/s, file.txt, but not U.S. and Ph.D.
        return sign == "/" or bool(WORDS_ASIDE.fullmatch(text[max(0, place - 2) : place + 3]))
    if sign in "*/-" and before == after == " ":  # an operator between numbers: 2 * 3
        return text[place - 2 : place - 1].isdigit() and text[place + 2 : place + 3].isdigit()
    return sign == "#" and before.isalpha() and not after.isalnum()  # C#


def _canonical(number: str) -> str:
    """A number's value without superfluous signs: 1,000 and 1000.0 are 1000; a code with leading zeros stays."""
    if LEADING_ZEROS.match(number):
        return number
    value = format(Decimal(number.replace(",", "")), "f").lstrip("+")
    value = value.rstrip("0").rstrip(".") if "." in value else value
    return "0" if value in ("-0", "") else value
