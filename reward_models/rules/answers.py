r"""Whether a reply gives the true answer. In doubt it does not: a reward for a wrong answer teaches wrong answers.

`same_answer` finds the answer in a reply: marked by \boxed{} or ####, or stated in prose (prose.py).
answer_values.py compares it with the true one.
"""

import re
from fractions import Fraction

from reward_models.rules.algebra import text_equal
from reward_models.rules.answer_values import MOST_PARTS, Equal, same_value
from reward_models.rules.prose import COPULA, is_negated, is_undoubted, last_quantity, stated_answer
from reward_models.rules.quantities import Quantity, as_quantity, same_quantity
from reward_models.rules.typography import clean, in_ascii

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{?)")
FINAL = re.compile(r"(?<!#)####(?!#)[ \t]*(.*)")
STATED = re.compile(r"^\W*(?:so\s+)?(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)+\s*", re.IGNORECASE)
# Retracts the answer before it: `\boxed{8} is not it`, `\boxed{8}? No.`
DENIED = re.compile(
    r"^[^\w?]*\?|^\W*(?:is|was|seems|must|can|could|should|does)\s*(?:\w+ly\s+)?(?:not|n['\u2019]t)\b"
    r"|(?:^|[.?!;:\n])\W*(?:no|nope|not)\b(?!\W*\d+\W*$)"
    r"|(?:\bnot|n['\u2019]t|\bcannot|\bnever)\s+(?:be\s+|quite\s+)*(?:the\s+|my\s+)?(?:final\s+|right\s+)?(?:right|correct|true|answer)\b"
    r"|\b(?:wrong|incorrect|mistaken?|wait|oops|hmm+|sorry|correction|actually|instead|doubt|unsure)\b",
    re.IGNORECASE,
)
CONNECTOR = re.compile(r"[\s$\\()\[\]*]*(?:,|and|or|,\s*and|,\s*or)[\s$\\()\[\]*]*")


def same_answer(reply: str, truth: str, equal: Equal = text_equal) -> bool:
    """Whether a reply gives the true answer.

    Args:
        truth: the true answer, alone or marked as in a reply.
        equal: compares mathematical expressions.
    """
    truth = true_answer(in_ascii(truth))
    reply = in_ascii(after_thought(reply))
    given, end = _marked(reply)
    if given is not None:
        return DENIED.search(reply, end) is None and same_value(given, truth, equal)
    if same_value(COPULA.sub("", reply), truth, equal):  # the answer alone
        return True
    wanted = as_quantity(clean(truth))
    phrase, after = stated_answer(reply)
    sure = is_undoubted(after) and not after.startswith("?")
    if wanted is None:
        return phrase is not None and sure and same_value(phrase, truth, equal)
    if phrase is not None and as_quantity(clean(phrase)):
        right = same_value(phrase, truth, equal)
        return right and sure and (not re.search(r"\d", after) or _is_last(reply, wanted))
    return _is_last(reply, wanted)


def after_thought(reply: str) -> str:
    """The reply after its reasoning (`<think>...</think>`); empty if the reasoning has no end."""
    _, thought, answer = reply.rpartition("</think>")
    return answer if thought else "" if "<think>" in reply else reply


def true_answer(text: str) -> str:
    """The answer in a column: marked, after `answer is`, at the end of a worked solution, or else the whole text."""
    marked = marked_answer(text)
    if marked is not None:
        return marked
    phrase, after = stated_answer(text)
    if phrase is not None and not after.strip():
        return phrase
    words = text.split()
    if len(words) >= 8 and as_quantity(clean(words[-1])) and (found := last_quantity(text)):
        return f"{found.value} {found.unit}".strip()
    return text


def marked_answer(text: str) -> str | None:
    r"""The answer in the last \boxed{} or after the last ####; None without either, "" if a box is open or negated.

    Boxes that only a comma, `and` or `or` separates are a list.
    """
    return _marked(text)[0]


def _marked(text: str) -> tuple[str | None, int]:
    """(the marked answer as in `marked_answer`, the position of its end)."""
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
        if is_negated(text, boxes[at].start()) or len(parts) == MOST_PARTS:
            return "", last
        parts.insert(0, content.strip())
    return ", ".join(parts), last


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
    """The value of a text that is a number, whatever its unit; None for other texts."""
    found = as_quantity(clean(text))
    return None if found is None else found.value


def last_number(text: str) -> Fraction | None:
    """The value of the last number in a text; None if it is in doubt, see `last_quantity`."""
    found = last_quantity(text)
    return None if found is None else found.value


def _is_last(reply: str, wanted: Quantity) -> bool:
    found = last_quantity(reply)
    return found is not None and same_quantity(found, wanted)
