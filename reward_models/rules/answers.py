r"""Whether a reply gives the true answer. In doubt it does not: a reward for a wrong answer teaches wrong answers.

`same_answer` finds the answer in a reply: marked by tags, \boxed{} or ####, or stated in prose (prose.py).
answer_values.py compares it with the true one.
"""

import json
import re
from fractions import Fraction

from reward_models.rules.algebra import text_equal
from reward_models.rules.answer_values import MOST_PARTS, Equal, same_value
from reward_models.rules.prose import COPULA, is_negated, is_undoubted, last_quantity, stated_answer
from reward_models.rules.quantities import Quantity, as_quantity, same_quantity
from reward_models.rules.typography import clean, in_ascii

BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{?)")
FINAL = re.compile(r"(?<!#)####(?!#)[ \t]*(.*)")
TAG = re.compile(r"<(/?)(answer|final_answer|solution)>|\[(/?)(answer)\]", re.IGNORECASE)
END_TOKENS = re.compile(r"(?:\s*(?:</s>|<eos>|<pad>|<end_of_turn>|<\|[^<>|\s]{1,40}\|>))+\s*$")  # also DeepSeek's
JSON_BLOCK = re.compile(r"\s*```(?:json)?\s*(\{.*\})\s*```\s*", re.DOTALL | re.IGNORECASE)
MOST_JSON = 10_000  # characters
ANSWER_KEYS = ("answer", "final_answer")
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
    reply = without_end_tokens(in_ascii(after_thought(reply)))
    if (tagged := _tagged(reply)) is not None:
        content, start, end = tagged
        if is_negated(reply, start) or DENIED.search(reply, end):
            return False
        reply = content
    return _gives(_json_answer(reply), truth, equal)


def _gives(reply: str, truth: str, equal: Equal) -> bool:
    """Whether a reply without tags gives the true answer."""
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


def without_end_tokens(text: str) -> str:
    """The text without a model's end tokens at its end, which a reply keeps if it was decoded with them."""
    last = text[-1000:]
    found = END_TOKENS.search(last)
    return text[: len(text) - len(last) + found.start()] if found else text


def _tagged(text: str) -> tuple[str, int, int] | None:
    """(content, start, end) of the last answer between tags that is not empty, as R1 is taught to write it.

    None without tags, and if a box or #### after them marks another answer.
    """
    last = opened = None
    for tag in TAG.finditer(text):
        name = (tag[2] or tag[4]).lower()
        if not (tag[1] or tag[3]):
            opened = (name, tag)
        elif opened and opened[0] == name and (content := text[opened[1].end() : tag.start()]).strip():
            last, opened = (content, opened[1].start(), tag.end()), None
    if last is None or BOX.search(text, last[2]) or FINAL.search(text, last[2]):
        return None
    return last


def _json_answer(text: str) -> str:
    """The answer in a reply that is a JSON object, perhaps in a block of code; other replies as they are."""
    block = JSON_BLOCK.fullmatch(text)
    inner = (block[1] if block else text).strip()
    if not (inner.startswith("{") and inner.endswith("}") and len(inner) < MOST_JSON):
        return text
    try:
        value = json.loads(inner)
    except (ValueError, RecursionError):
        return text
    found = [value[key] for key in ANSWER_KEYS if key in value] if isinstance(value, dict) else []
    return str(found[0]) if len(found) == 1 and isinstance(found[0], str | int | float) else text


def true_answer(text: str) -> str:
    """The answer in a column: marked, after `answer is`, at the end of a worked solution, or else the whole text."""
    text = without_end_tokens(text)
    if (tagged := _tagged(text)) is not None:
        text = tagged[0].strip()
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
