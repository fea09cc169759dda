r"""Numbers with units as they appear in answers: `1,000`, `-$5`, `1 1/2`, `1.5e3`, `10^{2}`, `12 cm`, `50%`.

A calculation (`3 + 4`), a list, a range, a date and a number with a variable (`3x`) are not numbers here.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 200  # characters of a number with its unit
CURRENCIES = "$€£¥₹"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_POWER = r"\s*(?:\^|\*\*)\s*"
_VALUE = rf"""
    (?P<whole>[0-9]+)\s+(?P<top>[0-9]+)/(?P<bottom>[0-9]+)
  | (?P<mantissa>{_DIGITS})(?:[eE](?P<e>[-+]?[0-9]{{1,3}})(?![0-9])
      | \s*(?:\\times|\\cdot|x|\*)\s*10{_POWER}(?:\{{(?P<p>[-+]?[0-9]{{1,3}})\}}|(?P<q>[-+]?[0-9]{{1,3}})(?![0-9])))
  | (?P<base>[0-9]{{1,6}}){_POWER}(?:\{{(?P<x>-?[0-9]{{1,3}})\}}|(?P<y>-?[0-9]{{1,3}})(?![0-9]))
  | (?P<over>[-+]?(?:{_DIGITS}))\s*/\s*(?P<under>[-+]?(?:{_DIGITS}))
  | (?P<plain>{_DIGITS})
"""
NUMBER = re.compile(rf"(?P<sign>[-+]?)\s*(?P<money>[{CURRENCIES}]?)\s*(?P<sign2>[-+]?)(?:{_VALUE})", re.VERBOSE)
_MIXED = re.compile(r"(?<=[0-9])\s*\\frac\{([0-9]+)\}\{([0-9]+)\}")
_SIMPLE_FRACTION = re.compile(rf"\\frac\{{\s*([-+]?(?:{_DIGITS}))\s*\}}\{{\s*([-+]?(?:{_DIGITS}))\s*\}}")

SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "mn": 10**6,
    "bn": 10**9,
    "B": 10**9,
}
# Words after a number that turn it into something else.
# fmt: off
NOT_UNITS = frozenset((
    "not", "no", "nor", "never", "neither", "isn't", "or", "and", "to", "is", "are", "was", "were", "be", "but",
    "if", "than", "plus", "minus", "times", "over", "by", "divided", "multiplied", "squared", "cubed", "factorial",
    "half", "halves", "third", "quarter", "fourth", "fifth", "maybe", "wrong", "incorrect", "mod", "modulo", "pi",
    "sqrt", "root", "sin", "cos", "tan", "log", "ln", "exp", "inf", "infinity", "choose", "permute", "pair",
    "couple", "score", "gross", "more", "less", "fewer", "greater", "smaller", "tenth", "hundredth", "thousandth",
    "millionth", "remainder", "instead", "actually", "either", "below", "above", "under", "short", "out", "lakh",
    "crore", "quadrillion", "googol", "sixth", "seventh", "eighth", "ninth", "one", "two", "three", "four", "five",
    "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "twenty", "hundred",
))
# fmt: on
_UNITS = {  # name: (unit, base unit, base units in it)
    **dict.fromkeys(("mm", "millimeter", "millimetre"), ("mm", "m", Fraction(1, 1000))),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), ("cm", "m", Fraction(1, 100))),
    **dict.fromkeys(("dm", "decimeter", "decimetre"), ("dm", "m", Fraction(1, 10))),
    **dict.fromkeys(("m", "meter", "metre"), ("m", "m", Fraction(1))),
    **dict.fromkeys(("km", "kilometer", "kilometre"), ("km", "m", Fraction(1000))),
    **dict.fromkeys(("in", "inch", "inches"), ("in", "m", Fraction(254, 10000))),
    **dict.fromkeys(("ft", "foot", "feet"), ("ft", "m", Fraction(3048, 10000))),
    **dict.fromkeys(("yd", "yard"), ("yd", "m", Fraction(9144, 10000))),
    **dict.fromkeys(("mi", "mile"), ("mi", "m", Fraction(1609344, 1000))),
    **dict.fromkeys(("mg", "milligram"), ("mg", "g", Fraction(1, 1000))),
    **dict.fromkeys(("g", "gram"), ("g", "g", Fraction(1))),
    **dict.fromkeys(("kg", "kilogram"), ("kg", "g", Fraction(1000))),
    **dict.fromkeys(("ms", "millisecond"), ("ms", "s", Fraction(1, 1000))),
    **dict.fromkeys(("s", "sec", "second"), ("s", "s", Fraction(1))),
    **dict.fromkeys(("min", "minute"), ("min", "s", Fraction(60))),
    **dict.fromkeys(("h", "hr", "hour"), ("h", "s", Fraction(3600))),
    **dict.fromkeys(("day",), ("day", "s", Fraction(86400))),
    **dict.fromkeys(("week",), ("week", "s", Fraction(7 * 86400))),
    **dict.fromkeys(("ml", "mL", "milliliter", "millilitre"), ("ml", "l", Fraction(1, 1000))),
    **dict.fromkeys(("l", "L", "liter", "litre"), ("l", "l", Fraction(1))),
    **dict.fromkeys(("$", "dollar", "usd", "USD"), ("$", "$", Fraction(1))),
    **dict.fromkeys(("cent", "¢"), ("cent", "$", Fraction(1, 100))),
    **dict.fromkeys(("€", "euro", "EUR"), ("€", "€", Fraction(1))),
    **dict.fromkeys(("%", "percent", "percentage", "pct"), ("%", "%", Fraction(1))),
    **dict.fromkeys(("°", "degree", "deg"), ("°", "°", Fraction(1))),
    **{name: (name, name, Fraction(1)) for name in (*"£¥₹JNWVAKCF", "Hz", "kW", "kJ", "mph", "rad", "°C", "°F")},
}
# Counters of Chinese, Japanese, Korean and Thai, which are attached to their number; days and months are left out.
COUNTERS = frozenset("人個个元円本枚匹台只件块歳岁天名頭杯種种개명원살권") | {"마리", "บาท", "คน"}
_UNIT_WORD = re.compile(r"([^\W\d_]+(?:['-][^\W\d_]+)*|°[CF]?|[%¢$€£¥₹])(\^\{?([23])\}?)?")


@dataclass(frozen=True)
class Quantity:
    """A number and its unit.

    Attributes:
        value: the number in its unit.
        unit: the unit's name, "" if there is none.
        base, factor: for comparisons the unit is `factor` times the base unit.
        fraction: whether it was written as a fraction a/b, which may be an unfinished division.
    """

    value: Fraction
    unit: str = ""
    base: str = ""
    factor: Fraction = Fraction(1)
    fraction: bool = False


def as_quantity(text: str) -> Quantity | None:
    """The number with its unit, if that is the whole text, otherwise None."""
    if len(text) > LONGEST:
        return None
    text = _SIMPLE_FRACTION.sub(r"\1/\2", _MIXED.sub(r" \1/\2", text)).strip()
    while len(text) > 1 and text[0] == "(" and text[-1] == ")" and not set("(),") & set(text[1:-1]):
        text = text[1:-1].strip()
    found = NUMBER.match(text)
    if found is None or (found["sign"] and found["sign2"]):
        return None
    value = _value(found)
    rest = text[found.end() :]
    if value is None:
        return None
    unit = split_unit(rest.strip(), spaced=rest[:1].isspace(), money=found["money"])
    if unit is None:
        return None
    scale, name = unit
    _, base, factor = _UNITS.get(name, (name, name, Fraction(1)))
    return Quantity(value * scale, name, base, factor, found["over"] is not None)


def same_quantity(given: Quantity, wanted: Quantity) -> bool:
    """Whether two quantities are the same; a unit that only one of them has is ignored.

    An unfinished division (84/7) does not equal its whole result, and 0.5% is neither 0.5 nor 50%.
    """
    if given.fraction and wanted.value.denominator == 1:
        return False
    if given.unit and wanted.unit:
        return given.base == wanted.base and given.value * given.factor == wanted.value * wanted.factor
    if "%" in (given.unit, wanted.unit):
        share, other = (given.value, wanted.value) if given.unit == "%" else (wanted.value, given.value)
        return share / 100 == other or (share == other and abs(other) > 1)
    return given.value == wanted.value


def split_unit(text: str, spaced: bool = True, money: str = "") -> tuple[int, str] | None:
    """(scale, unit) of the text after a number: `million dollars` is (1000000, "$"); None if it is not a unit.

    Args:
        spaced: whether white space precedes it; a variable (3x, 3m) has none.
        money: the currency sign before the number.
    """
    words = text.replace("/", " per ").replace("^\\circ", "°").replace("^{\\circ}", "°").replace(".", "").split()
    scale, names, power = 1, [money] if money else [], ""
    if words and scale_of(words[0]) and (spaced or len(words[0]) < 3):
        scale, spaced = scale_of(words.pop(0)), True
    if len(words) > 5:
        return None
    for word in words:
        found = _UNIT_WORD.fullmatch(word)
        if found is None or is_no_unit(found[1]) or scale_of(found[1]):
            return None
        name = found[1]
        if name.lower() in ("square", "sq", "cubic"):
            power = "^3" if name.lower() == "cubic" else "^2"
            continue
        if name in COUNTERS:
            names.append(name)
            continue
        known = _known(name)
        if known is None and (len(name) < 3 or not spaced):
            return None
        if name.isalpha() and len(name) == 1 and not spaced:
            return None
        names.append((known or name.lower().removesuffix("s")) + (f"^{found[3]}" if found[2] else power))
        spaced, power = True, ""
    return scale, " ".join([*names, *(["unit" + power] if power else [])])


def scale_of(word: str) -> int:
    """The number that a word such as `million`, `Dozens` or `k` means; 0 for other words."""
    return SCALES.get(word if len(word) < 3 else word.lower().removesuffix("s"), 0)


def is_no_unit(word: str) -> bool:
    """Whether a word after a number turns it into something else: 5 or, 5 squared, 5 sixths."""
    word = word.lower()
    return word in NOT_UNITS or word.removesuffix("s") in NOT_UNITS


def _known(name: str) -> str | None:
    for one in (name, name.removesuffix("s")) if len(name) < 4 else (name.lower(), name.lower().removesuffix("s")):
        if one in _UNITS:
            return _UNITS[one][0]
    return None


def _value(found: re.Match) -> Fraction | None:
    """The value of a match of NUMBER; None for a division by zero or an improper mixed fraction."""
    groups = {name: text.replace(",", "") for name, text in found.groupdict().items() if text}
    try:
        if "whole" in groups:
            part = Fraction(int(groups["top"]), int(groups["bottom"]))
            value = int(groups["whole"]) + part if part < 1 else None
        elif "mantissa" in groups:
            exponent = groups.get("e") or groups.get("p") or groups["q"]
            value = Fraction(groups["mantissa"]) * Fraction(10) ** int(exponent)
        elif "base" in groups:
            value = Fraction(groups["base"]) ** int(groups.get("x") or groups["y"])
        elif "over" in groups:
            value = Fraction(groups["over"]) / Fraction(groups["under"])
        else:
            value = Fraction(groups["plain"])
    except ZeroDivisionError:
        return None
    return -value if value is not None and "-" in (groups.get("sign"), groups.get("sign2")) else value
