"""Answers as plain text: without the typography of Unicode, LaTeX and Markdown."""

import re
import unicodedata

from reward_models.rules.algebra import is_mathematics

LONGEST = 1000  # characters of an answer
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", None),  # invisible
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


# Full-width signs, and the punctuation of Chinese, Japanese and Arabic; a comma or stop between words ends a clause.
_OTHER_SIGNS = str.maketrans(
    {
        **{chr(0xFF01 + at): chr(0x21 + at) for at in range(94)},
        **dict.fromkeys("\uff0c\u3001\u060c", ", "),
        **dict.fromkeys("\u3002\uff61\u06d4", ". "),
        "\uff1f": "? ",
        "\u061f": "? ",
        "\uff01": "! ",
        "\u066b": ".",
        "\u066c": ",",
        "\u066a": "%",
    }
)


def in_ascii(text: str) -> str:
    """A text with the digits of all scripts as 0 to 9, and with ASCII's punctuation."""
    if text.isascii():
        return text
    return re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text).translate(_OTHER_SIGNS)


def clean(text: str) -> str:
    r"""An answer without typography: Unicode signs, LaTeX spaces, \text{}, surrounding $ and **, a full stop."""
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
    """The form in which texts are compared: case and final punctuation matter only in mathematics."""
    if is_mathematics(text):
        return text.replace(" ", "")
    if re.search(r"[\\^_=<>+*/\d]", text) or not re.search(r"[^\W\d_]{2}", text):
        return text
    return unicodedata.normalize("NFC", text).casefold().rstrip(".,:;!").strip("\"'` ")
