"""How a judge's written answer is read: strictly, so that an answer in doubt is None and never a guess.

A judge is asked for a line `Verdict: A` or `Rating: 4`. Such a line counts as the first or the last one of an answer,
also as `**Verdict:** [[A]]`, `The better reply is A` or `Rating (1-5): 4/5`; of several lines the last counts. An
answer may also be the bare value. Not read are a value followed by more words (`Verdict: A or B`), two values in one
line or in successive lines (an echo of the question, a change of mind), ratings off the scale, and what is only quoted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import partial

Reader = Callable[[str], float | None]  # a bare value -> what it says, None for anything else

FENCED = re.compile(r"^\s*```.*?^\s*```\s*$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"\"[^\"\n]*\"|\u201c[^\u201d\n]*\u201d|\u00ab[^\u00bb\n]*\u00bb|\u300c[^\u300d\n]*\u300d")
MARKUP = re.compile(r"[*`#_]+|\\(?:boxed|text)\b")
MARKED = re.compile(r"\s*(?:\*\*.+\*\*|\[\[.+\]\]|\\boxed\{.+\})\.?\s*")  # a value that stands out without a label
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
    """1 for A, 0 for B, 0.5 for a tie; None for an answer that does not say so."""
    return read_answer(answer, VERDICT, _side)


def read_rating(answer: str, lowest: int, highest: int) -> float | None:
    """The rating that an answer gives; None for an answer that gives none on the scale."""
    return read_answer(answer, _rating_label(lowest, highest), partial(_rating, lowest=lowest, highest=highest))


def read_answer(answer: str, label: re.Pattern[str], read: Reader) -> float | None:
    """What an answer says in its labelled lines, or as a whole.

    Args:
        label: what stands before a value; its groups name the label.
        read: reads a value that stands alone.
    """
    text = unicodedata.normalize("NFKC", answer).rpartition("</think>")[2]
    if "<think>" in text:
        return None  # the reasoning has no end, so the answer is not there
    unfenced = FENCED.sub("", text)
    text = unfenced if unfenced.strip() else text.replace("```", "")
    lines = [line for line in text.splitlines() if line.strip()]
    said = [_statement(line, label, read) for line in lines]
    places = [place for place, one in enumerate(said) if one is not None]
    if not places:
        alone = lines and (len(lines) == 1 or MARKED.fullmatch(lines[-1]))
        return read(_bare(lines[-1])) if alone else None
    last = places[-1]
    name, value = said[last]
    if last and said[last - 1] is not None and said[last - 1] != (name, value) and said[last - 1][0] == name:
        return None
    explained = last == 0 and not any(map(RETRACTED.search, lines[1:]))
    return value if explained or last == len(lines) - 1 else None


def _statement(line: str, label: re.Pattern[str], read: Reader) -> tuple[str, float | None] | None:
    """(label, value) of a line that states a value, the value None if it is not clear; None without a label."""
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


def _side(text: str) -> float | None:
    if found := SIDE.fullmatch(text):
        return 1.0 if found["side"] in "aA" else 0.0
    return 0.5 if TIE.fullmatch(text) else None


def _rating_label(lowest: int, highest: int) -> re.Pattern[str]:
    """A label that may repeat the scale, `Rating (1-5):`; with another scale it is none."""
    scale = (
        rf"(?:on\ a\ scale\ )? (?:(?:of|from)\ )? (?:{lowest}\s*(?:-|\u2013|to)\s*{highest} | (?:out\ )?of\ {highest})"
    )
    return re.compile(
        rf"{BEGIN} {MY} (?P<label>rating|score) (?:\s*[(\[]\s*{scale}\s*[)\]] | ,?\s+{scale})? {IS}",
        re.IGNORECASE | re.VERBOSE,
    )


def _rating(text: str, lowest: int, highest: int) -> float | None:
    """`4`, `4.5`, `4/5` or `4 out of 5` on the scale."""
    found = RATED.fullmatch(text)
    if not found or (found[2] is not None and float(found[2]) != highest):
        return None
    rating = float(found[1])
    return rating if lowest <= rating <= highest else None
