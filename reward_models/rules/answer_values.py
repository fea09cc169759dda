"""Whether two answers, each without the text around it, have the same value.

Numbers with units are compared by value, lists, tuples and intervals part by part, words as text, and other mathematics
by `equal`, see algebra.py.
"""

import re
from collections.abc import Callable

from reward_models.rules.algebra import is_mathematics, text_equal
from reward_models.rules.prose import is_undoubted
from reward_models.rules.quantities import as_quantity, same_quantity, split_unit
from reward_models.rules.typography import LONGEST, clean, plain

Equal = Callable[[str, str], bool]  # whether two mathematical expressions are equal: (given, true)

MOST_PARTS = 20  # of a list
NAME = re.compile(
    r"(?:\\[a-zA-Z]+|[A-Za-z])(?:_(?:\w|\{\w+\}))?(?:\(\s*[A-Za-z]\s*\))?|[A-Za-z]{3,}(?: [A-Za-z]{3,}){0,3}"
)
CHOICE = re.compile(r"(?:option|choice)?\s*\(?\s*([A-Ja-j])\s*(?:[).:]|$)\s*(.*)", re.DOTALL | re.IGNORECASE)


def same_value(given: str, wanted: str, equal: Equal = text_equal, nested: int = 0) -> bool:
    """Whether two answers are the same.

    Args:
        equal: compares mathematical expressions.
        nested: depth within lists and equations.
    """
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
    """Whether an answer picks a letter: A, (a), A), A: Paris; but not the word `a`, nor a list of several choices."""
    if given.strip("().: ") == wanted:
        return True
    found = CHOICE.fullmatch(given)
    if found is None or found[1].upper() != wanted:
        return False
    if found[1].islower() and "(" not in given[: given.index(found[1])]:
        return False
    return not re.search(r"(?<![A-Za-z])[A-J](?![A-Za-z])", found[2]) and is_undoubted(found[2])


def _without_names(given: str, wanted: str, equal: Equal, nested: int) -> str:
    """The value of `x = 5` and of `10/2 = 5`, 5; "" if a side of the equation is neither a name nor the answer."""
    sides = [side.strip() for side in re.split(r"(?<![<>!\\])=", re.sub(r"^([A-Za-z])\s*\\in\b", r"\1 = ", given))]
    if len(sides) == 1 or _parts(given) is not None:
        return given
    while len(sides) > 1 and NAME.fullmatch(sides[0]) and is_undoubted(sides[0]):
        sides.pop(0)
    if len(sides) > 4 or not all(sides):
        return ""
    return sides[-1] if all(_comes_to(side, wanted, equal, nested) for side in sides[:-1]) else ""


def _comes_to(side: str, wanted: str, equal: Equal, nested: int) -> bool:
    if re.fullmatch(r"[0-9.+*/ ()-]+", side) and re.search(r"\d\)?\s*[+*/-]", side):
        return as_quantity(wanted) is not None  # a calculation with numbers; its result is checked
    return same_value(side, wanted, equal, nested + 1)


def _assignments(given: str, wanted: str) -> tuple[str, str] | None:
    """(given value, true value) if the truth is like `x = 5`; None for equations, or assignments to other names."""
    name, equals, value = (part.strip() for part in wanted.partition("="))
    if not equals or "=" in value or not NAME.fullmatch(name) or "," in wanted:
        return None
    if "=" not in given:
        return given, value
    other, _, found = (part.strip() for part in given.partition("="))
    return (found, value) if other == name and "=" not in found else None


def _parts(text: str) -> tuple[str, list[str]] | None:
    """(brackets, parts) of a list, tuple, set or interval, brackets "" for a bare list; None for other texts."""
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
    """The position at which the first bracket closes; -1 if it does not."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return place
    return -1


def _split(text: str) -> list[str]:
    """The parts between commas (or semicolons) outside brackets."""
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign in ",;" and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _same_parts(given: tuple[str, list[str]], wanted: tuple[str, list[str]], equal: Equal, nested: int) -> bool:
    """Compare tuples and intervals in order, sets and bare lists in any order; the brackets must agree."""
    (brackets, parts), (expected, true) = given, wanted
    if brackets != expected or len(parts) != len(true):
        return False
    if brackets not in ("", "{}"):
        return all(same_value(one, other, equal, nested + 1) for one, other in zip(parts, true, strict=True))
    names = {part.partition("=")[0].strip() for part in parts if "=" in part}
    if len(names) > 1 and not any("=" in part for part in true):
        return False  # x = 1, y = 2 does not give the list 2, 1
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
    r"""(expression, unit) of a text such as `3\pi cm`; the unit is "" if there is none."""
    quantity = as_quantity(text)
    if quantity is not None and quantity.unit == "°":
        return str(quantity.value), "°"
    head, space, tail = text.rpartition(" ")
    unit = split_unit(tail) if space and len(tail.strip("^{}23")) > 1 else None
    return (head, unit[1]) if unit and unit[0] == 1 and unit[1] and is_mathematics(head) else (text, "")


def _radians(text: str, unit: str) -> str:
    return rf"\frac{{{text}}}{{180}}\pi" if unit == "°" else text
