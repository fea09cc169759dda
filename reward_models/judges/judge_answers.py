"""Reading a judge's written answer: strictly, so that an answer in doubt is None and never a guess.

A judge is asked for a line `Verdict: A` or `Rating: 4`. Such a line counts if it is the first or the last line of an
answer, also in forms such as `**Verdict:** [[A]]`, `The better reply is A` or `Rating (1-5): 4/5`; if there are
several, the last counts. An answer may also be the bare value. Not read are a value followed by more words (`Verdict: A
or B`), two values in the same line or in successive lines (an echo of the question, a change of mind), ratings off the
scale, and quotations.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import partial

Reader = Callable[[str], float | None]  # a bare value -> its number, None for any other text

FENCED = re.compile(r"^\s*```.*?^\s*```\s*$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"\"[^\"\n]*\"|\u201c[^\u201d\n]*\u201d|\u00ab[^\u00bb\n]*\u00bb|\u300c[^\u300d\n]*\u300d")
MARKUP = re.compile(r"[*`#_]+|\\(?:boxed|text)\b")
MARKED = re.compile(r"\s*(?:\*\*.+\*\*|\[\[.+\]\]|\\boxed\{.+\})\.?\s*")  # a value with emphasis and without a label
RETRACTED = re.compile(
    r"\b(?:wait|actually|instead|correction|scratch that|on (?:reflection|second thoughts?)|change my mind)\b", re.I
)

# A label begins a line or a sentence: `it says Verdict: A` is about someone else's verdict.
BEGIN = r"(?:^|(?<=[.!?;])\s+) (?:(?:so|thus|therefore|hence|overall|finally|in\ conclusion)\b,?\s+)?"
MY = r"(?:i\ (?:think|believe)\ )? (?:(?:the|my|final|overall)\ )*"
IS = r"(?:\s*[:=] | \s+is\b\s*:?)"
BETTER = r"(?:better|best|preferred|stronger)\ (?:reply|response|answer|one|output|completion)"
VERDICT = re.compile(
    rf"{BEGIN} {MY} (?: (?P<label>verdict|winner|preference|{BETTER}) {IS} | (?P<answer>answer) \s*[:=] )",
    re.IGNORECASE | re.VERBOSE,
)

REPLY = r"(?:(?:the\ )?(?:reply|response|answer|option|assistant)\ )?"
SIDE = re.compile(
    rf"{REPLY} (?P<side>[ab]) (?:\ is\ (?:the\ )?better (?:\ (?:one|reply|response))? (?:\ than\ {REPLY}[ab])?)?",
    re.IGNORECASE | re.VERBOSE,
)
BOTH = rf"(?:{REPLY}a\ and\ {REPLY}b | both | they | (?:both|the\ two)\ (?:replies|responses|answers))"
TIE = re.compile(
    rf"""(?:it\ is\ |it's\ )? (?:(?:an?\ )?(?:tie|draw) | tied | equal)
    | {BOTH} (?:\ are)? \ (?:a\ tie | tied | equal | the\ same | (?:equally|just\ as)\ good)
    | neither (?:\ (?:one|reply|response|of\ them))? \ is\ better""",
    re.IGNORECASE | re.VERBOSE,
)
NUMBER = r"[+-]?\d+(?:\.\d+)?"
RATED = re.compile(rf"({NUMBER}) (?:\s*(?:/|\ out\ of\ )\s*({NUMBER}))?", re.IGNORECASE | re.VERBOSE)


def read_preference(answer: str) -> float | None:
    """1 for A, 0 for B, 0.5 for a tie; None for an answer without a clear verdict."""
    return read_answer(answer, VERDICT, side)


def read_rating(answer: str, lowest: int, highest: int) -> float | None:
    """The rating in an answer; None for an answer without a clear rating on the scale."""
    return read_answer(answer, rating_label(lowest, highest), partial(bare_rating, lowest=lowest, highest=highest))


def read_answer(answer: str, label: re.Pattern[str], read: Reader) -> float | None:
    """The value in an answer's labelled lines, or of the whole answer; None if it is in doubt.

    Args:
        label: matches the text before a value; its groups name the label.
        read: reads a bare value.
    """
    text = unicodedata.normalize("NFKC", answer).rpartition("</think>")[2]
    if "<think>" in text:
        return None  # the reasoning has no end, so there is no answer
    unfenced = FENCED.sub("", text)
    text = unfenced if unfenced.strip() else text.replace("```", "")
    lines = [line for line in text.splitlines() if line.strip()]
    said = [_statement(line, label, read) for line in lines]
    stated = [(place, one) for place, one in enumerate(said) if one is not None]
    if not stated:
        alone = lines and (len(lines) == 1 or MARKED.fullmatch(lines[-1]))
        return read(_bare(lines[-1])) if alone else None
    last, (name, value) = stated[-1]
    before = said[last - 1] if last else None
    if before is not None and before != (name, value) and before[0] == name:
        return None
    explained = last == 0 and not any(map(RETRACTED.search, lines[1:]))
    return value if explained or last == len(lines) - 1 else None


def _statement(line: str, label: re.Pattern[str], read: Reader) -> tuple[str, float | None] | None:
    """(label, value) of a labelled line, the value None if it is unclear; None for a line without a label."""
    if line.lstrip().startswith(">"):
        return None
    plain = QUOTED.sub(lambda quote: "" if label.search(_bare(quote[0])) else quote[0], line)
    plain = MARKUP.sub("", plain).strip()
    found = list(label.finditer(plain))
    if not found:
        return None
    ends = [one.start() for one in found[1:]] + [len(plain)]
    values = {read(_bare(plain[one.end() : end])) for one, end in zip(found, ends, strict=True)}
    name = next(filter(None, found[-1].groups())).lower()
    return name, values.pop() if len(values) == 1 else None


def _bare(text: str) -> str:
    """A value without markup, brackets, quotation marks and the punctuation after it."""
    brackets = " \t[](){}\"'\u201c\u201d"
    return MARKUP.sub("", text).strip(brackets).rstrip(".,;!" + brackets)


def side(text: str) -> float | None:
    if found := SIDE.fullmatch(text):
        return 1.0 if found["side"] in "aA" else 0.0
    return 0.5 if TIE.fullmatch(text) else None


def rating_label(lowest: int, highest: int) -> re.Pattern[str]:
    """Matches a label that may repeat the scale, `Rating (1-5):`, but not another scale."""
    scale = (
        rf"(?:on\ a\ scale\ )? (?:(?:of|from)\ )? (?:{lowest}\s*(?:-|\u2013|to)\s*{highest} | (?:out\ )?of\ {highest})"
    )
    return re.compile(
        rf"{BEGIN} {MY} (?P<label>rating|score) (?:\s*[(\[]\s*{scale}\s*[)\]] | ,?\s+{scale})? {IS}",
        re.IGNORECASE | re.VERBOSE,
    )


def bare_rating(text: str, lowest: int, highest: int) -> float | None:
    """`4`, `4.5`, `4/5` or `4 out of 5` on the scale."""
    found = RATED.fullmatch(text)
    if not found or (found[2] is not None and float(found[2]) != highest):
        return None
    rating = float(found[1])
    return rating if lowest <= rating <= highest else None
