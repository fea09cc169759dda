"""Answers in English sentences: what follows `answer is`, and the last number of a text, unless it is in doubt."""

import re

from reward_models.rules.quantities import Quantity, as_quantity, is_no_unit, scale_of
from reward_models.rules.typography import LONGEST, clean

PHRASE = re.compile(
    r"\banswer\s*(?:is|are|:|=)+\s*:?\s*"
    r"|(?P<other>(?:答え|正解|解答|答)\s*(?:は|:)|答案\s*(?:是|为|為|:)|คำตอบ\s*(?:คือ|:)|(?:정답|답)\s*(?:은|:))\s*:?\s*",
    re.IGNORECASE,
)
# `is` at the end of a sentence, or politeness.
COPULA = re.compile(r"(?:です|だ|である|でした|になります|となります|입니다|이다|이에요|예요|ครับ|ค่ะ|คะ)[\s.!]*$")
# Denial, doubt, bounds and estimates in Chinese, Japanese, Thai and Korean.
DOUBT_ELSEWHERE = re.compile(
    r"不|没|沒|错|錯|误|誤|違|ない|ません|吗|嗎|或|または|もしくは|かも|か\s*[.?]|以上|以下|以内|未満|超|约|約|大概|左右|くらい|ぐらい|ほど"
    r"|ไม่|หรือ|ผิด|ประมาณ|아니|아닙|않|틀[리렸린]|오답|또는|혹은|이상|이하|약\s*\d"
)
_OPENS = r"[\s$(*:\\\[]*$"  # between a word and the answer that it qualifies
NEGATED = re.compile(
    r"(?:\b(?:not|never|n't|isn['\u2019]t)\s*(?:be|equal(?:\s+to)?)?"
    r"|\b(?:anything but|(?:other|less|more) than|far from|almost|nearly|if|whether)(?:\s+the)?(?:\s+final)?"
    r"|(?:\b(?:doubt|unsure|unlikely|whether)|(?:\bnot|n['\u2019]t)\s+(?:think|believe|sure|certain))\b[^.?!,;:\n]*)"
    + _OPENS,
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<=[^\s.])[.?;]+(?=\s|$)|(?<=[^\s.\d])!+(?=\s|$)|\n")  # 5! is a factorial
# fmt: off
DOUBT = frozenset((
    "not", "no", "nor", "never", "neither", "none", "either", "or", "maybe", "perhaps", "possibly", "wrong",
    "incorrect", "false", "mistaken", "mistake", "wait", "actually", "instead", "sorry", "correction", "between",
    "cannot", "unless", "except", "doubt", "doubtful", "unsure", "unlikely", "guess", "guessing", "hardly",
    "might", "whether",
))
# Before a number: the number is a bound, an estimate, the argument of a function or a label, not the answer.
QUALIFIES = frozenset((
    "than", "least", "most", "twice", "half", "double", "triple", "times", "plus", "over", "under", "above", "below",
    "beyond", "within", "exceeds", "exceed", "exceeding", "max", "min", "maximum", "minimum", "from", "by", "but",
    "almost", "nearly", "about", "around", "approximately", "roughly", "near", "barely", "like", "say", "until",
    "without", "if", "√", "±", "power", "exponent", "base", "root", "square", "cube", "squared", "cubed", "factorial",
    "reciprocal", "inverse", "sqrt", "log", "ln", "lg", "exp", "sin", "cos", "tan", "abs", "mod", "modulo", "choose",
    "step", "page", "question", "problem", "figure", "equation", "case", "example", "exercise", "line", "item",
))
# `a total of 8` is 8, `the square of 8` is not.
MEASURES = frozenset((
    "total", "sum", "average", "mean", "value", "result", "answer", "cost", "price", "profit", "loss", "amount",
    "distance", "length", "width", "height", "depth", "area", "volume", "perimeter", "weight", "speed", "rate", "age",
    "score", "balance", "salary", "income", "difference", "product", "remainder", "discount", "tip", "fee", "count",
    "temperature", "probability",
))
# `comes to 8` is 8, `close to 8` is not.
LEADS = frozenset((
    "equal", "equals", "comes", "came", "come", "amounts", "amount", "adds", "sums", "leads", "simplifies", "reduces",
    "evaluates", "total", "totals", "rounds", "rounded",
))
# fmt: on
# The left side of an unsolved equation: 2x, x + 3, x^2.
UNSOLVED = re.compile(
    r"(?:[\d)}]|[-+*/^]\s*|\b(?:log|ln|sqrt|sin|cos|tan)\s*[({]?)(?<![a-z])[abknp-rt-z][)}]?$"
    r"|(?<![a-z])[abknp-rt-z]\s*\^\s*\{?\d+\}?$|(?<![a-z0-9]\s)(?<![a-z])[abknp-rt-z]\s*[-+*/]\s*\d+$",
)
CLAUSE_END = re.compile(r",(?=\s)|\band\b|\|")
JOINS = frozenset(("and", "to", "of", "by", "in", "per", "for", "every", "vs", "x", "&"))
FOLLOWS = frozenset(("is", "are", "was", "were", "more", "less", "fewer", "to", "by", "if", "than"))  # after an answer
CALCULATES = frozenset("+-*/^<>=!\u00d7\u00f7\u2264\u2265\u2260")


def is_negated(text: str, place: int) -> bool:
    """Whether `not`, `I doubt that` or the like is just before a position."""
    return NEGATED.search(text[:place].rstrip()[-80:]) is not None


def stated_answer(text: str) -> tuple[str | None, str]:
    """(the text after the last `answer is` up to the end of its sentence, the text after that sentence)."""
    found = list(PHRASE.finditer(text))
    if not found or is_negated(text, found[-1].start()):
        return None, ""
    start = found[-1].end()
    end = SENTENCE_END.search(text, start)
    stop = end.start() if end else len(text)
    phrase, after = text[start:stop].strip(" *"), text[stop:]
    if DOUBT_ELSEWHERE.search(phrase + (end[0] if end else "")):
        return None, ""
    if found[-1]["other"]:  # a wrong answer is 42; the answer is 42. That is ...
        sentence = re.split(r"[.?!;\n]", text[: found[-1].start()])[-1]
        if re.search(r"\w", after) or DOUBT_ELSEWHERE.search(sentence):
            return None, ""
        phrase = COPULA.sub("", phrase)
    return phrase, after


def is_undoubted(text: str) -> bool:
    """Whether a text has no word of doubt, denial or correction."""
    words = {word.strip(".,;:!?\"'()*_`").lower().replace("\u2019", "'") for word in text.split()}
    return (
        not words & DOUBT
        and not any(word.endswith("n't") for word in words)
        and not re.search(r"≠|!=|\\neq?\b", text)
        and not DOUBT_ELSEWHERE.search(text)
    )


def last_quantity(text: str) -> Quantity | None:
    """The last number in a text, with its unit; None if it is in doubt, or part of a calculation, range or list."""
    sentences, signs, place = [], [], 0
    for end in [*SENTENCE_END.finditer(text), None]:
        sentences.append(text[place : end.start() if end else len(text)])
        place = end.end() if end else place
        signs.append(end[0] if end else "")
    numbered = [at for at, sentence in enumerate(sentences) if re.search(r"\d", sentence)]
    if not numbered or "?" in signs[numbered[-1]] or not is_undoubted(" ".join(sentences[numbered[-1] :])):
        return None
    if _is_listed(sentences[: numbered[-1] + 1]):
        return None
    sentence = re.sub(r"\$([^$\s]+)\$|\\[()\[\]]", r" \1 ", sentences[numbered[-1]])
    words = clean(sentence).replace("=", " = ").split()
    at = max((at for at, word in enumerate(words) if re.search(r"\d", word)), default=None)
    if at is None:
        return None
    word = words[at].strip(",:;?\"'*_`").rstrip(".")
    word = word if word.count("(") == word.count(")") else word.strip("()")
    before = [one.strip("\"'*_`:").lower() for one in words[:at]]
    return _in_context(word, before, [one.strip(",:;?!\"'*_`()").rstrip(".") for one in words[at + 1 :]])


def _is_listed(sentences: list[str]) -> bool:
    """Whether the last number is one of several guesses: its clause differs from the one before by the number alone.

    `x = 1, x = 8`; `It is 1. It is 8.`; a number on each line.
    """
    clauses = [clean(one).lower() for text in sentences[-8:] for one in CLAUSE_END.split(text[-LONGEST:])]
    clauses = [one for one in clauses if re.search(r"\w", one)]
    frames = [re.sub(r"[-+]?\s*\$?[\d.,]*\d", "#", one) for one in clauses]
    if len(frames) < 2 or frames[-1].count("#") != 1:
        return False
    return frames[-2].replace(" ", "") == frames[-1].replace(" ", "") and clauses[-2] != clauses[-1]


def _in_context(word: str, before: list[str], after: list[str]) -> Quantity | None:
    """The number in a word, unless the words around it make it something other than the answer."""
    previous, earlier = (["", "", *before])[:-3:-1]
    following = after[0] if after else ""
    if previous in ("negative", "minus") and not word.startswith("-"):
        word, (previous, earlier) = f"-{word}", (earlier, "")
        if re.search(r"\d", previous):
            return None
    elif re.fullmatch(r"[0-9]+", previous) and re.fullmatch(r"[0-9]+(?:/|\\frac).*", word):
        word, previous = f"{previous} {word}", earlier
    if _is_qualified(previous, earlier, before) or _is_continued(following, after):
        return None
    if following.lower() == "and":
        following = ""
    return as_quantity(f"{word} {following}") or as_quantity(word)


def _is_qualified(previous: str, earlier: str, before: list[str]) -> bool:
    """Whether the words before a number make it a bound, a part of a calculation or the like.

    Args:
        previous, earlier: the last word before the number, and the word before that.
        before: all words before the number.
    """
    if re.search(r"\d", previous) or (previous in JOINS and (re.search(r"\d", earlier) or earlier == "out")):
        return True
    if previous in QUALIFIES or previous.endswith(("(", "[", "{", "|", *(CALCULATES - {"="}))):
        return True
    if previous.startswith("\\") and previous not in ("\\therefore", "\\rightarrow", "\\implies", "\\to", "\\item"):
        return True
    if previous != "=" and re.search(r"\d", earlier) and not re.search(r"\w", previous):  # 5 | 8, 1 : 8
        return True
    if (previous == "of" and earlier not in MEASURES) or (previous == "to" and not LEADS & set(before[-3:])):
        return True
    if previous != "=":
        return False
    return any(set("<>~≈") & set(one) for one in before[-2:]) or bool(UNSOLVED.search(" ".join(before[:-1])))


def _is_continued(following: str, after: list[str]) -> bool:
    """Whether the words after a number continue a calculation, a list or a number in words.

    Args:
        following: the next word, "" at the end.
        after: all words after the number.
    """
    if following and (following[0] in CALCULATES or following.startswith(("\\", "("))):
        return True
    second = after[1] if len(after) > 1 else ""
    if following.lower() == "and":
        return second.lower() in ("a", "one", "half") or re.match(r"[\d\\]", second) is not None
    if is_no_unit(following) and following.lower() not in FOLLOWS:
        return True
    return bool(scale_of(following) and scale_of(second))
