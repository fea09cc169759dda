"""Rewards by rule: a right answer, a format, a length, forbidden words, code.

Each function here that returns a `Reward` is named in a recipe with its options,
`reward_models.rules:answer_match?column=solution`; the `?` is needed even without options.
"""

import ast
import json
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from os import cpu_count
from pathlib import Path
from typing import Any, NoReturn

from alignment.data.words import UNSPACED, is_unspaced, split_words
from alignment.errors import UserError, unknown
from reward_models.protocol import Column, Reward, Text, reply_text
from reward_models.rule_columns import true_answers
from reward_models.rule_tests import read_tests
from reward_models.rules.algebra import Algebra, Limited
from reward_models.rules.answers import after_thought, same_answer
from reward_models.rules.answers import as_number as as_number
from reward_models.rules.answers import last_number as last_number
from reward_models.rules.answers import marked_answer as marked_answer

logger = logging.getLogger(__name__)
PATTERN_WORKER = Path(__file__).with_name("pattern_worker.py")
FENCE = re.compile(r"(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})(?P<label>[^`]*)")
LABEL = re.compile(r"[ \t]*[{.]*[\w+#-]*")
INVISIBLE = (0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF)  # soft hyphen, zero-width spaces and joiners
PYTHON = ("", "python", "python3", "py", "py3", "python2", "ipython", "ipython3")


def rule(name: str, judge: Callable[[str], float | None]) -> Reward:
    """A reward that judges each reply by its text alone."""

    def reward(completions: Sequence[Text], **columns: Any) -> list[float | None]:
        return [judge(reply_text(completion)) for completion in completions]

    reward.__name__ = name
    return reward


# ---- Answers ----


def answer_match(column: Column = "answer") -> Reward:
    r"""1 if the reply gives the answer in the column, 0 if it does not or if that is in doubt; None without an answer.

    The reply's answer is marked by the last <answer>, \boxed{} or ####, otherwise it follows the last `answer is`,
    otherwise it is the whole reply or, if the true answer is a number, the last number. Numbers are compared by value
    and unit (1,000 is 1000.0, 0.5 is 1/2, 120 mm is 12 cm); a unit on only one side is ignored, and an unfinished
    calculation is not a number. Expressions, equations, sets and intervals are compared by math-verify, words as text
    without regard to case. The column holds the answer alone or marked as in a reply (GSM8K), or a list of
    alternatives, which may be JSON text.
    """
    equal = Algebra()

    def judge(completion: Text, true: object) -> float | None:
        alternatives = true_answers(true, column)
        if not alternatives:
            return None
        return float(any(same_answer(reply_text(completion), one, equal) for one in alternatives))

    def reward(completions: Sequence[Text], **columns: Any) -> list[float | None]:
        _require_column(columns, column, "answer_match")
        return [judge(*pair) for pair in zip(completions, columns[column], strict=True)]

    reward.__name__ = "answer_match"
    return reward


# ---- Formats ----


def matches(pattern: str, whole: bool = False) -> Reward:
    """1 if the regular expression matches somewhere in the reply (`whole`: the whole reply), otherwise 0.

    None for a reply in which the search takes more than a second of processor time.
    """
    try:
        re.compile(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        got = f"{pattern!r}: {error}"
        raise UserError("not a regular expression", got=got, fix="in a recipe write %26 for &, %25 for %") from error
    search = Limited(PATTERN_WORKER)
    values = {b"true\n": 1.0, b"false\n": 0.0}

    def reward(completions: Sequence[Text], **columns: Any) -> list[float | None]:
        scores = [values.get(search.ask(pattern, whole, reply_text(completion))) for completion in completions]
        if slow := scores.count(None):
            logger.warning("matches: %d of %d replies took too long for %r", slow, len(scores), pattern)
        return scores

    reward.__name__ = "matches"
    return reward


def parses_as_json(keys: list[str] | None = None) -> Reward:
    """1 if the whole reply is JSON (with `keys`: an object that has all of them), otherwise 0."""

    def judge(text: str) -> float:
        try:
            value = json.loads(text, parse_constant=_no_number, parse_int=float)  # Python limits the digits of int
        except (ValueError, RecursionError):
            return 0.0
        return float(keys is None or (isinstance(value, dict) and set(keys) <= value.keys()))

    return rule("parses_as_json", judge)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# ---- Length ----


def length_band(low: int, high: int, fall: int = 0, unit: str = "words") -> Reward:
    """1 for a length from low to high, falling linearly to 0 at `fall` beyond either end (at once if fall is 0).

    Args:
        unit: words (in scripts without spaces a character is a word), characters (without white space around the
            reply), or tokens as sampled.
    """
    if not (0 <= low <= high and fall >= 0):
        got = f"{low} to {high}, fall {fall}"
        raise UserError("not a valid length band", got=got, expected="0 <= low <= high, 0 <= fall")

    def judge(length: int) -> float:
        beyond = max(low - length, length - high, 0)
        return 1.0 if beyond == 0 else max(0.0, 1 - beyond / fall) if fall else 0.0

    return _by_length("length_band", judge, unit)


def length_penalty(each: float, free: int = 0, unit: str = "words") -> Reward:
    """-each for each word (character, token) beyond `free`; units as for `length_band`."""
    if not isfinite(each):
        raise UserError("length_penalty has no finite penalty", got=each)
    return _by_length("length_penalty", lambda length: -each * max(0, length - free), unit)


def _by_length(name: str, judge: Callable[[int], float], unit: str) -> Reward:
    counts: dict[str, Callable[[str], int]] = {
        "words": lambda text: len(split_words(text)),
        "characters": lambda text: len(text.strip()),
    }
    if unit in counts:
        return rule(name, lambda text: judge(counts[unit](text)))
    if unit != "tokens":
        raise unknown("unit of length", unit, (*counts, "tokens"))

    def reward(
        completions: Sequence[Text], completion_ids: Sequence[Sequence[int]] | None = None, **columns: Any
    ) -> list[float | None]:
        if completion_ids is None:
            return [None] * len(completions)
        return [judge(len(ids)) for ids in completion_ids]

    reward.__name__ = name
    return reward


# ---- Words ----


def without_words(words: list[str] | None = None, file: str | None = None, penalty: float = 1.0) -> Reward:
    """-penalty for a reply that contains any of the words or phrases, otherwise 0.

    Case, the width of white space, and the encoding of accents and apostrophes do not matter. Words of scripts without
    spaces (Chinese, Japanese, Thai) are found within a text, other words as whole words.

    Args:
        file: a text file with a word or phrase per line.
    """
    if file is not None and not Path(file).is_file():
        raise UserError(f"no file {file}", expected="a text file with a word or phrase per line")
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines() if file else []
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a text in UTF-8", got=str(error), fix="convert it to UTF-8") from error
    forbidden = [_folded(word).split() for word in [*(words or []), *lines] if word.strip()]
    if not forbidden:
        raise UserError("without_words has no words to forbid", expected="words, or a file that lists some")
    if not isfinite(penalty):
        raise UserError("without_words has no finite penalty", got=penalty)
    found = re.compile("|".join(map(_whole_words, forbidden)))
    return rule("without_words", lambda text: -penalty if found.search(_folded(text)) else 0.0)


def _whole_words(phrase: Sequence[str]) -> str:
    """A pattern of a phrase that neither begins nor ends within a word; _word_ in Markdown is that word."""
    letter = rf"[^\W_{UNSPACED}]"
    before = "" if is_unspaced(phrase[0][0]) else f"(?<!{letter})"
    after = "" if is_unspaced(phrase[-1][-1]) else f"(?!{letter})"
    return before + r"\s+".join(map(re.escape, phrase)) + after


def _folded(text: str) -> str:
    """The text in one encoding and case, without invisible characters."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'").translate(dict.fromkeys(INVISIBLE))


# ---- Code ----


def code_of(text: str) -> str:
    """The code of a reply, after its reasoning.

    This is the last complete block that is labelled as Python, otherwise the last complete block without a label,
    otherwise a block that has no end; the whole reply if it has no block.
    """
    text = after_thought(text).replace("\r\n", "\n").replace("\r", "\n")
    blocks = fenced_blocks(text)
    if not blocks:
        return text
    order = [(False, True), (False, False), (True, True), (True, False)]  # (open, labelled)
    found = {(is_open, bool(label)): code for label, code, is_open in blocks if label.lower() in PYTHON}
    return next((found[kind] for kind in order if kind in found), "")


def fenced_blocks(text: str) -> list[tuple[str, str, bool]]:
    """(label, content, whether it has no end) of the blocks fenced by ``` or ~~~, without the fence's indentation."""
    blocks: list[tuple[str, str, bool]] = []
    fence: re.Match[str] | None = None
    label = ""
    lines: list[str] = []
    for line in text.split("\n"):
        if fence is None:
            if (fence := FENCE.fullmatch(line)) is not None:
                label, lines = (LABEL.match(fence["label"]) or [""])[0].strip("{}. "), []
        elif (bare := line.strip(" \t>")).startswith(fence["fence"]) and not bare.strip(fence["fence"][0]):
            blocks.append((label, "\n".join([*lines, ""]), False))
            fence = None
        else:
            lines.append(re.sub(rf"^[ \t>]{{0,{len(fence['indent'])}}}", "", line))
    return blocks if fence is None else [*blocks, (label, "\n".join(lines), True)]


def code_parses() -> Reward:
    """1 if the reply's code has Python's syntax, otherwise 0. It is not run."""

    def judge(text: str) -> float:
        try:
            code = ast.parse(code_of(text)).body
            return float(
                any(not _is_word(one) for one in code) if "```" not in text and "~~~" not in text else bool(code)
            )
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return 0.0

    return rule("code_parses", judge)


def _is_word(statement: ast.stmt) -> bool:
    """Whether a statement calls and assigns nothing: `Paris`, `yes, thanks` and `this is it` are valid Python too."""
    return isinstance(statement, ast.Expr) and not any(isinstance(one, ast.Call) for one in ast.walk(statement))


def code_passes(
    allow_execution: bool = False, column: Column = "tests", seconds: float = 5.0, megabytes: int = 512
) -> Reward:
    """1 if the reply's code runs and then the row's tests pass, otherwise 0; None if the row has no tests.

    The code runs as an imported module, in another process than the tests; see sandbox.py for the limits, which guard
    against accidents, not against attackers.

    Args:
        allow_execution: must be true.
        column: Python code such as assertions, or a list of it. Its functions named test... that it does not use
            itself are called. It sees the names of the reply's code, also as the module `solution`.
        seconds, megabytes: limits per process.
    """
    if not allow_execution:
        raise UserError(
            "code_passes would run code that a model wrote, which is not allowed by default",
            expected="allow_execution=true: the limits on time, memory, files and network do not stop an attacker",
            fix="set allow_execution=true, on a machine that may be harmed",
        )
    from reward_models.rules.sandbox import run_code

    if run_code("works = True", "assert works", seconds, megabytes) != "passed":
        raise UserError(
            "code_passes cannot run code on this machine within its limits",
            got=f"seconds={seconds}, megabytes={megabytes}",
            fix="raise the limits; `python -I reward_models/rules/sandbox_child.py` shows where it fails",
        )

    def judge(pair: tuple[Text, str]) -> float | None:
        completion, tests = pair
        if not tests:
            return None
        return float(run_code(code_of(reply_text(completion)), tests, seconds, megabytes) == "passed")

    def reward(completions: Sequence[Text], **columns: Any) -> list[float | None]:
        _require_column(columns, column, "code_passes")
        tests = [read_tests(one, column) for one in columns[column]]
        with ThreadPoolExecutor(cpu_count()) as threads:
            return list(threads.map(judge, zip(completions, tests, strict=True)))

    reward.__name__ = "code_passes"
    return reward


def _require_column(columns: dict, column: str, name: str) -> None:
    if column not in columns:
        raise UserError(
            f"{name}: the rows have no column {column!r}",
            got=", ".join(sorted(columns)) or "no other columns",
            fix=f"name the column: reward_models.rules:{name}?column=NAME",
        )
