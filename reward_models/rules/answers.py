r"""Whether a reply gives the true answer. In doubt it does not: a reward for a wrong answer teaches wrong answers.

`same_answer` finds the answer in a reply, `same_value` compares two answers: numbers with units by value, lists,
tuples and intervals part by part, words as text. Mathematics beyond that goes to `equal`, see algebra.py.
"""

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

from reward_models.rules.algebra import is_mathematics, text_equal
from reward_models.rules.quantities import Quantity, as_quantity, is_no_unit, same_quantity, scale_of, split_unit

Equal = Callable[[str, str], bool]  # whether a given expression is the true one

LONGEST, MOST_PARTS = 1000, 20  # characters of an answer, parts of a list
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{?)")
FINAL = re.compile(r"(?<!#)####(?!#)[ \t]*(.*)")
STATED = re.compile(r"^\W*(?:so\s+)?(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)+\s*", re.IGNORECASE)
PHRASE = re.compile(r"\banswer\s*(?:is|are|:|=)+\s*:?\s*", re.IGNORECASE)
_OPENS = r"[\s$(*:\\\[]*$"  # between a word and the answer that it is about
NEGATED = re.compile(
    r"(?:\b(?:not|never|n't|isn['\u2019]t)\s*(?:be|equal(?:\s+to)?)?"
    r"|\b(?:anything but|(?:other|less|more) than|far from|almost|nearly|if|whether)(?:\s+the)?(?:\s+final)?"
    r"|(?:\b(?:doubt|unsure|unlikely|whether)|(?:\bnot|n['\u2019]t)\s+(?:think|believe|sure|certain))\b[^.?!,;:\n]*)"
    + _OPENS,
    re.IGNORECASE,
)
# What takes back the answer before it: `\boxed{8} is not it`, `\boxed{8}? No.`
DENIED = re.compile(
    r"^[^\w?]*\?|^\W*(?:is|was|seems|must|can|could|should|does)\s*(?:\w+ly\s+)?(?:not|n['\u2019]t)\b"
    r"|(?:^|[.?!;:\n])\W*(?:no|nope|not)\b(?!\W*\d+\W*$)"
    r"|(?:\bnot|n['\u2019]t|\bcannot|\bnever)\s+(?:be\s+|quite\s+)*(?:the\s+|my\s+)?(?:final\s+|right\s+)?(?:right|correct|true|answer)\b"
    r"|\b(?:wrong|incorrect|mistaken?|wait|oops|hmm+|sorry|correction|actually|instead|doubt|unsure)\b",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<=[^\s.])[.?;]+(?=\s|$)|(?<=[^\s.\d])!+(?=\s|$)|\n")  # 5! is a factorial
CONNECTOR = re.compile(r"[\s$\\()\[\]*]*(?:,|and|or|,\s*and|,\s*or)[\s$\\()\[\]*]*")
# fmt: off
DOUBT = frozenset((
    "not", "no", "nor", "never", "neither", "none", "either", "or", "maybe", "perhaps", "possibly", "wrong",
    "incorrect", "false", "mistaken", "mistake", "wait", "actually", "instead", "sorry", "correction", "between",
    "cannot", "unless", "except", "doubt", "doubtful", "unsure", "unlikely", "guess", "guessing", "hardly",
    "might", "whether",
))
# Before a number: it is a bound, an estimate, the argument of a function or a label, and not the answer.
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
# The left side of an equation that is yet to be solved: 2x, x + 3, x^2.
UNSOLVED = re.compile(
    r"(?:[\d)}]|[-+*/^]\s*|\b(?:log|ln|sqrt|sin|cos|tan)\s*[({]?)(?<![a-z])[abknp-rt-z][)}]?$"
    r"|(?<![a-z])[abknp-rt-z]\s*\^\s*\{?\d+\}?$|(?<![a-z0-9]\s)(?<![a-z])[abknp-rt-z]\s*[-+*/]\s*\d+$",
)
CLAUSE_END = re.compile(r",(?=\s)|\band\b|\|")
NAME = re.compile(
    r"(?:\\[a-zA-Z]+|[A-Za-z])(?:_(?:\w|\{\w+\}))?(?:\(\s*[A-Za-z]\s*\))?|[A-Za-z]{3,}(?: [A-Za-z]{3,}){0,3}"
)
CHOICE = re.compile(r"(?:option|choice)?\s*\(?\s*([A-Ja-j])\s*(?:[).:]|$)\s*(.*)", re.DOTALL | re.IGNORECASE)
JOINS = frozenset(("and", "to", "of", "by", "in", "per", "for", "every", "vs", "x", "&"))
CALCULATES = frozenset("+-*/^<>=!\u00d7\u00f7\u2264\u2265\u2260")


def same_answer(reply: str, truth: str, equal: Equal = text_equal) -> bool:
    """Whether a reply gives the true answer.

    Args:
        truth: the answer, alone or marked as in a reply.
        equal: compares mathematical expressions.
    """
    truth = true_answer(truth)
    reply = after_thought(reply)
    given, end = _marked(reply)
    if given is not None:
        return DENIED.search(reply, end) is None and same_value(given, truth, equal)
    if same_value(reply, truth, equal):  # the answer alone
        return True
    wanted = as_quantity(clean(truth))
    phrase, after = _phrase(reply)
    sure = _undoubted(after) and not after.startswith("?")
    if wanted is None:
        return phrase is not None and sure and same_value(phrase, truth, equal)
    if phrase is not None and as_quantity(clean(phrase)):
        right = same_value(phrase, truth, equal)
        return right and sure and (not re.search(r"\d", after) or _is_last(reply, wanted))
    return _is_last(reply, wanted)


def after_thought(reply: str) -> str:
    """The reply without its thoughts; empty where they never end."""
    _, thought, answer = reply.rpartition("</think>")
    return answer if thought else "" if "<think>" in reply else reply


def true_answer(text: str) -> str:
    """The answer that a column holds: marked, after `answer is`, at the end of a long worked solution, or all of it."""
    marked = marked_answer(text)
    if marked is not None:
        return marked
    phrase, after = _phrase(text)
    if phrase is not None and not after.strip():
        return phrase
    words = text.split()
    if len(words) >= 8 and as_quantity(clean(words[-1])) and (found := last_quantity(text)):
        return f"{found.value} {found.unit}".strip()
    return text


def marked_answer(text: str) -> str | None:
    r"""What the last \boxed{} or #### marks; None where there is neither, empty where a box has no end or is denied.

    Boxes with no more than a comma, `and` or `or` between them are a list.
    """
    return _marked(text)[0]


def _marked(text: str) -> tuple[str | None, int]:
    """(the marked answer, where it ends)."""
    boxes, final = list(BOX.finditer(text)), list(FINAL.finditer(text))
    if not boxes or (final and final[-1].start() > boxes[-1].start()):
        return (STATED.sub("", final[-1][1]).strip(), final[-1].end()) if final else (None, 0)
    parts: list[str] = []
    last = len(text)
    for at in range(len(boxes) - 1, -1, -1):
        content, end = _braced(text, boxes[at])
        if content is None:
            break
        following = boxes[at + 1].start() if at + 1 < len(boxes) else None
        if following is None:
            last = end
        elif not (end <= following and CONNECTOR.fullmatch(text, end, following)):
            break
        if _is_negated(text, boxes[at].start()) or len(parts) == MOST_PARTS:
            return "", last
        parts.insert(0, content.strip())
    return ", ".join(parts), last


def _is_negated(text: str, place: int) -> bool:
    """Whether `not`, `I doubt that`, or the like, stands just before a place."""
    return NEGATED.search(text[:place].rstrip()[-80:]) is not None


def _braced(text: str, box: re.Match) -> tuple[str | None, int]:
    """(content, end) of a box."""
    depth, place = 0, box.end()
    while box[1] and place < len(text):
        if text[place] == "\\":
            place += 1
        else:
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth < 0:
                return text[box.end() : place], place + 1
        place += 1
    return None, place


def as_number(text: str) -> Fraction | None:
    """The number that a text is, whatever its unit; None where it is none."""
    found = as_quantity(clean(text))
    return None if found is None else found.value


def last_number(text: str) -> Fraction | None:
    found = last_quantity(text)
    return None if found is None else found.value


# ---- Prose ----


def _phrase(text: str) -> tuple[str | None, str]:
    """What stands after the last `answer is` up to the end of its sentence, and what follows."""
    found = list(PHRASE.finditer(text))
    if not found or _is_negated(text, found[-1].start()):
        return None, ""
    start = found[-1].end()
    end = SENTENCE_END.search(text, start)
    stop = end.start() if end else len(text)
    return text[start:stop].strip(" *"), text[stop:]


def _undoubted(text: str) -> bool:
    words = {word.strip(".,;:!?\"'()*_`").lower().replace("\u2019", "'") for word in text.split()}
    return (
        not words & DOUBT and not any(word.endswith("n't") for word in words) and not re.search(r"≠|!=|\\neq?\b", text)
    )


def _is_last(reply: str, wanted: Quantity) -> bool:
    found = last_quantity(reply)
    return found is not None and same_quantity(found, wanted)


def last_quantity(text: str) -> Quantity | None:
    """The last number of a prose, with its unit; None if it is part of a calculation, range or list, or in doubt."""
    sentences, signs, place = [], [], 0
    for end in [*SENTENCE_END.finditer(text), None]:
        sentences.append(text[place : end.start() if end else len(text)])
        place = end.end() if end else place
        signs.append(end[0] if end else "")
    numbered = [at for at, sentence in enumerate(sentences) if re.search(r"\d", sentence)]
    if not numbered or "?" in signs[numbered[-1]] or not _undoubted(" ".join(sentences[numbered[-1] :])):
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
    """Whether the last number is one of several guesses: what is said of it was just said of another.

    `x = 1, x = 8`; `It is 1. It is 8.`; a number on each line.
    """
    clauses = [clean(one).lower() for text in sentences[-8:] for one in CLAUSE_END.split(text[-LONGEST:])]
    clauses = [one for one in clauses if re.search(r"\w", one)]
    frames = [re.sub(r"[-+]?\s*\$?[\d.,]*\d", "#", one) for one in clauses]
    if len(frames) < 2 or frames[-1].count("#") != 1:
        return False
    return frames[-2].replace(" ", "") == frames[-1].replace(" ", "") and clauses[-2] != clauses[-1]


def _in_context(word: str, before: list[str], after: list[str]) -> Quantity | None:
    """The number that a word is, by the words around it."""
    previous, earlier = (["", "", *before])[:-3:-1]
    following = after[0] if after else ""
    if previous in ("negative", "minus") and not word.startswith("-"):
        word, (previous, earlier) = f"-{word}", (earlier, "")
        if re.search(r"\d", previous):
            return None
    elif re.fullmatch(r"[0-9]+", previous) and re.fullmatch(r"[0-9]+(?:/|\\frac).*", word):
        word, previous = f"{previous} {word}", earlier
    if re.search(r"\d", previous) or (previous in JOINS and (re.search(r"\d", earlier) or earlier == "out")):
        return None
    if previous in QUALIFIES or previous.endswith(("(", "[", "{", "|", *(CALCULATES - {"="}))):
        return None
    if previous.startswith("\\") and previous not in ("\\therefore", "\\rightarrow", "\\implies", "\\to", "\\item"):
        return None
    if previous != "=" and re.search(r"\d", earlier) and not re.search(r"\w", previous):  # 5 | 8, 1 : 8
        return None
    if (previous == "of" and earlier not in MEASURES) or (previous == "to" and not LEADS & set(before[-3:])):
        return None
    if previous == "=" and (
        any(set("<>~≈") & set(one) for one in before[-2:]) or UNSOLVED.search(" ".join(before[:-1]))
    ):
        return None
    if following and (following[0] in CALCULATES or following.startswith(("\\", "("))):
        return None
    if following.lower() == "and":
        if len(after) > 1 and (after[1].lower() in ("a", "one", "half") or re.match(r"[\d\\]", after[1])):
            return None
        following = ""
    if is_no_unit(following) and following.lower() not in {
        "is",
        "are",
        "was",
        "were",
        "more",
        "less",
        "fewer",
        "to",
        "by",
        "if",
        "than",
    }:
        return None
    if scale_of(following) and len(after) > 1 and scale_of(after[1]):
        return None
    return as_quantity(f"{word} {following}") or as_quantity(word)


# ---- Values ----


def same_value(given: str, wanted: str, equal: Equal = text_equal, nested: int = 0) -> bool:
    """Whether two answers, each alone, are the same."""
    if len(given) > LONGEST or len(wanted) > LONGEST or nested > 3:
        return False
    given, wanted = clean(given), clean(wanted)
    if not given or not wanted:
        return False
    if plain(given) == plain(wanted):
        return True
    if re.fullmatch(r"[A-J]", wanted.strip("()")):
        return _same_choice(given, wanted.strip("()"))
    quantity = as_quantity(wanted)
    if "=" not in re.sub(r"[<>!]=", "", wanted) and not (given := _without_names(given, wanted, equal, nested)):
        return False
    if quantity is not None and (found := as_quantity(given)) is not None:
        return same_quantity(found, quantity)
    if quantity is not None and quantity.unit != "°":
        return False
    if (both := _assignments(given, wanted)) is not None:
        return same_value(*both, equal, nested + 1)
    if (parts := _parts(wanted)) is not None and as_quantity(given) is None and (others := _parts(given)) is not None:
        return _same_parts(others, parts, equal, nested)
    return _same_mathematics(given, wanted, equal)


def _same_choice(given: str, wanted: str) -> bool:
    """A letter of multiple choice: A, (a), A), A: Paris; no lower-case word `a`, and no list of all choices."""
    if given.strip("().: ") == wanted:
        return True
    found = CHOICE.fullmatch(given)
    if found is None or found[1].upper() != wanted:
        return False
    if found[1].islower() and "(" not in given[: given.index(found[1])]:
        return False
    return not re.search(r"(?<![A-Za-z])[A-J](?![A-Za-z])", found[2]) and _undoubted(found[2])


def _without_names(given: str, wanted: str, equal: Equal, nested: int) -> str:
    """`x = 5` is 5, and so is `10/2 = 5`; empty where the sides of the equation are neither a name nor the answer."""
    sides = [side.strip() for side in re.split(r"(?<![<>!\\])=", re.sub(r"^([A-Za-z])\s*\\in\b", r"\1 = ", given))]
    if len(sides) == 1 or _parts(given) is not None:
        return given
    while len(sides) > 1 and NAME.fullmatch(sides[0]) and _undoubted(sides[0]):
        sides.pop(0)
    if len(sides) > 4 or not all(sides):
        return ""
    return sides[-1] if all(_comes_to(side, wanted, equal, nested) for side in sides[:-1]) else ""


def _comes_to(side: str, wanted: str, equal: Equal, nested: int) -> bool:
    if re.fullmatch(r"[0-9.+*/ ()-]+", side) and re.search(r"\d\)?\s*[+*/-]", side):
        return as_quantity(wanted) is not None  # a calculation of numbers, whose result is looked at
    return same_value(side, wanted, equal, nested + 1)


def _assignments(given: str, wanted: str) -> tuple[str, str] | None:
    """The values of `x = 5` and `x = 5`, or of 5 and `x = 5`; None where they are equations, or of two names."""
    name, equals, value = (part.strip() for part in wanted.partition("="))
    if not equals or "=" in value or not NAME.fullmatch(name) or "," in wanted:
        return None
    if "=" not in given:
        return given, value
    other, _, found = (part.strip() for part in given.partition("="))
    return (found, value) if other == name and "=" not in found else None


def _parts(text: str) -> tuple[str, list[str]] | None:
    """(brackets, parts) of a list, tuple, set or interval; None where a text is none. Bare lists have brackets ""."""
    text = text.replace("\\{", "{").replace("\\}", "}")
    brackets, inner = "", text
    if text.startswith(("(", "[", "{")) and text.endswith((")", "]", "}")) and _closes(text) == len(text) - 1:
        brackets, inner = text[0] + text[-1], text[1:-1]
    parts = _split(inner)
    if not brackets and len(parts) == 1:
        parts = re.split(r"\s+(?:and|or)\s+", inner)
    elif not brackets:
        parts = [re.sub(r"^(?:and|or)\s+", "", part) for part in parts[:-1]] + re.split(
            r"\s+(?:and|or)\s+|^(?:and|or)\s+", parts[-1]
        )
        parts = [part for part in parts if part]
    if not 0 < len(parts) <= MOST_PARTS or not all(parts) or (len(parts) == 1 and brackets != "{}"):
        return None
    return brackets, parts


def _closes(text: str) -> int:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return place
    return -1


def _split(text: str) -> list[str]:
    """Text between the commas (or semicolons) outside brackets."""
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign in ",;" and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _same_parts(given: tuple[str, list[str]], wanted: tuple[str, list[str]], equal: Equal, nested: int) -> bool:
    """Of tuples and intervals part by part in order, of sets and bare lists in any order; the brackets must agree."""
    (brackets, parts), (expected, true) = given, wanted
    if brackets != expected or len(parts) != len(true):
        return False
    if brackets not in ("", "{}"):
        return all(same_value(one, other, equal, nested + 1) for one, other in zip(parts, true, strict=True))
    names = {part.partition("=")[0].strip() for part in parts if "=" in part}
    if len(names) > 1 and not any("=" in part for part in true):
        return False  # x = 1, y = 2 is not the list 2, 1
    if not brackets and not all(as_quantity(part) or is_mathematics(part) for part in true):
        return all(same_value(one, other, equal, nested + 1) for one, other in zip(parts, true, strict=True))  # words
    left = list(true)
    for part in parts:
        found = next((one for one in left if same_value(part, one, equal, nested + 1)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_mathematics(given: str, wanted: str, equal: Equal) -> bool:
    (one, unit), (other, true_unit) = _measured(given), _measured(wanted)
    if "°" in (unit, true_unit) and "\\pi" in (one + other):
        one, other = _radians(one, unit), _radians(other, true_unit)
    elif unit and true_unit and unit != true_unit:
        return False
    return is_mathematics(one) and is_mathematics(other) and equal(one, other)


def _measured(text: str) -> tuple[str, str]:
    r"""(expression, unit): `3\pi cm`; the unit is "" where it has none."""
    quantity = as_quantity(text)
    if quantity is not None and quantity.unit == "°":
        return str(quantity.value), "°"
    head, space, tail = text.rpartition(" ")
    unit = split_unit(tail) if space and len(tail.strip("^{}23")) > 1 else None
    return (head, unit[1]) if unit and unit[0] == 1 and unit[1] and is_mathematics(head) else (text, "")


def _radians(text: str, unit: str) -> str:
    return rf"\frac{{{text}}}{{180}}\pi" if unit == "°" else text


# ---- Text ----

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", None),  # nothing to be seen
        "\xd7": r"\times ",
        "\xb7": r"\cdot ",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\xf7": "/",
        "\xb2": "^{2}",
        "\xb3": "^{3}",
        "\u2044": "/",
        "\uff05": "%",
        "\uff04": "$",
        "\xbd": " 1/2",
        "\xbc": " 1/4",
        "\xbe": " 3/4",
        "\u2019": "'",
        "\u2018": "'",
        **dict.fromkeys("\u201c\u201d", '"'),
    }
)
_REPLACED = [
    (re.compile(r"\\(?:left|right|displaystyle|big|Big|bigg|Bigg|limits)(?![A-Za-z])\.?"), ""),
    (re.compile(r"(?<=\d)(?:\\,|\\!|\{,\}|\\;|\{,\}\\!)(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox|operatorname|textrm|mathsf)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\s+(?=\^)"), ""),
    (re.compile(r"(?<!\\)\\[,;:! ]|(?<!\\)~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:d|t|c)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"\\(?:leq|leqslant)(?![A-Za-z])|<="), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])|!="), r"\\ne "),
    (re.compile(r"(?<!\\)\b(?:infinity|infty|inf|oo)\b"), r"\\infty "),
    (re.compile(r"°|\\degree(?![A-Za-z])|\^\s*(?:\\circ|\{\s*\\circ\s*\})"), "°"),
    (re.compile(r"\\([%$€£#&_])"), r"\1"),
]
_AROUND = re.compile(r"^(?:\*\*|__|`|\\\(|\\\[|\$\$)(.*)(?:\*\*|__|`|\\\)|\\\]|\$\$)$", re.DOTALL)


def clean(text: str) -> str:
    r"""An answer without its typography: unicode signs, LaTeX's spaces, \text{}, $ and ** around it, a full stop."""
    text = _without_frame(text.translate(_SIGNS).strip())
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = re.sub(r"(?<!\d)\u2013(?=\s*[\d$.\\])", "-", text)
    return _without_frame(" ".join(text.split()))


def _without_frame(text: str) -> str:
    for _ in range(4):
        before, text = text, text.strip().rstrip(".").strip()
        if (found := _AROUND.fullmatch(text)) is not None:
            text = found[1]
        if len(text) > 2 and text[0] == text[-1] == "$" and text.count("$") == 2 and text[-2] != "\\":
            text = text[1:-1]
        if text == before:
            break
    return text


def plain(text: str) -> str:
    """Text for a comparison as text: letter case and punctuation at the end count in mathematics alone."""
    if is_mathematics(text):
        return text.replace(" ", "")
    if re.search(r"[\\^_=<>+*/\d]", text) or not re.search(r"[^\W\d_]{2}", text):
        return text
    return unicodedata.normalize("NFC", text).casefold().rstrip(".,:;!").strip("\"'` ")
