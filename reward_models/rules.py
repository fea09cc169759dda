"""Rewards that can be checked: an answer, a format, a length, words to avoid, code.

Each function here that returns a `Reward` makes one: in a recipe `reward_models.rules:answer_match?column=solution`,
with a `?` even where no option is given.
"""

import ast
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from os import cpu_count
from pathlib import Path

from alignment.errors import UserError, unknown
from reward_models.protocol import Reward, reply_text

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|(?<![\w.])[-+]?\.\d+")
FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
FINAL = re.compile(r"####\s*(.+)")
CODE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def rule(name: str, judge: Callable[[str], float | None]) -> Reward:
    """A reward that looks at each reply's text alone."""

    def reward(completions, **columns):
        return [judge(reply_text(completion)) for completion in completions]

    reward.__name__ = name
    return reward


# ---- Answers ----


def answer_match(column: str = "answer") -> Reward:
    r"""1 where the answer in the reply is that in the column, 0 where it is not; None where the row has no answer.

    The answer is what stands in the last \boxed{}, else after the last ####, else the last number. Numbers are compared
    by value: 1,000 is 1000.0, 0.5 is 1/2; other answers as text, letter case and white space aside. In the column an
    answer may stand as in the reply (GSM8K) or alone.
    """

    def reward(completions, **columns):
        _require_column(columns, column, "answer_match")
        pairs = zip(completions, columns[column], strict=True)
        return [None if true is None else float(same_answer(reply_text(one), str(true))) for one, true in pairs]

    reward.__name__ = "answer_match"
    return reward


def same_answer(reply: str, truth: str) -> bool:
    """Whether a reply gives the true answer."""
    wanted = marked_answer(truth) or truth
    number = as_number(wanted)
    if number is None and marked_answer(truth) is None and NUMBER.search(truth) and len(truth.split()) > 3:
        number = last_number(truth)  # a worked solution
    given = marked_answer(reply)
    if number is not None:
        return (last_number(reply) if given is None else as_number(given)) == number
    return _plain(reply if given is None else given) == _plain(wanted)


def marked_answer(text: str) -> str | None:
    r"""What stands in the last \boxed{}, else after the last ####; None where there is neither."""
    start = text.rfind("\\boxed{")
    if start >= 0:
        depth, begin = 0, start + len("\\boxed{")
        for place in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth < 0:
                return text[begin:place].strip()
    final = FINAL.findall(text)
    return final[-1].strip() if final else None


def as_number(text: str) -> Fraction | None:
    """The number that a text is, currency, percent and unit signs of one word aside; None where it is none."""
    text = FRACTION.sub(r"\1/\2", text).replace("\\", "").strip().strip("$€£. ")
    found = NUMBER.search(text)
    beside = "" if found is None else NUMBER.sub("", text, count=1).strip(" %$€£{}.")
    return _value(found.group()) if found and (not beside or re.fullmatch(r"[A-Za-z]+", beside)) else None


def last_number(text: str) -> Fraction | None:
    found = NUMBER.findall(FRACTION.sub(r" \1/\2", text))
    return _value(found[-1]) if found else None


def _value(number: str) -> Fraction | None:
    over, _, under = number.replace(",", "").replace(" ", "").partition("/")
    under = Fraction(under or 1)
    return Fraction(over) / under if under else None


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .$")


# ---- Formats ----


def matches(pattern: str, whole: bool = False) -> Reward:
    """1 where the regular expression is found in the reply (`whole`: where it is the whole reply), else 0."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        got = f"{pattern!r}: {error}"
        raise UserError("not a regular expression", got=got, mend="in a recipe %26 stands for &, %25 for %") from error
    find = compiled.fullmatch if whole else compiled.search
    return rule("matches", lambda text: float(find(text) is not None))


def parses_as_json(keys: list[str] | None = None) -> Reward:
    """1 where the whole reply is JSON, and, with `keys`, an object that has them all; else 0."""

    def judge(text: str) -> float:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return 0.0
        return float(keys is None or (isinstance(value, dict) and set(keys) <= value.keys()))

    return rule("parses_as_json", judge)


# ---- Length ----


def length_band(low: int, high: int, fall: int = 0, unit: str = "words") -> Reward:
    """1 for a length of low to high, falling to 0 at `fall` beyond either; 0 at once where fall is 0.

    Args:
        unit: words, characters, or tokens as sampled.
    """
    if not 0 <= low <= high:
        raise UserError("length_band has no such band", got=f"{low} to {high}", needed="0 <= low <= high")

    def judge(length: int) -> float:
        beyond = max(low - length, length - high, 0)
        return 1.0 if beyond == 0 else max(0.0, 1 - beyond / fall) if fall else 0.0

    return _by_length("length_band", judge, unit)


def length_penalty(each: float, free: int = 0, unit: str = "words") -> Reward:
    """-each for every word (character, token) beyond `free`."""
    return _by_length("length_penalty", lambda length: -each * max(0, length - free), unit)


def _by_length(name: str, judge: Callable[[int], float], unit: str) -> Reward:
    units = {"words": lambda text: len(text.split()), "characters": len, "tokens": None}
    if unit not in units:
        raise unknown("unit of length", unit, tuple(units))
    if unit != "tokens":
        return rule(name, lambda text: judge(units[unit](text)))

    def reward(completions, completion_ids=None, **columns):
        if completion_ids is None:
            return [None] * len(completions)
        return [judge(len(ids)) for ids in completion_ids]

    reward.__name__ = name
    return reward


# ---- Words ----


def without_words(words: list[str] | None = None, file: str | None = None, penalty: float = 1.0) -> Reward:
    """-penalty for a reply with any of the words or phrases in it, letter case aside; else 0.

    Args:
        file: a text file, a word or phrase a line.
    """
    if file is not None and not Path(file).is_file():
        raise UserError(f"no file {file}", needed="a text file with a word a line")
    lines = Path(file).read_text(encoding="utf-8").splitlines() if file else []
    forbidden = [word.strip() for word in [*(words or []), *lines] if word.strip()]
    if not forbidden:
        raise UserError("without_words forbids nothing", needed="words, or a file that lists some")
    found = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, forbidden)) + r")(?!\w)", re.IGNORECASE)
    return rule("without_words", lambda text: -penalty if found.search(text) else 0.0)


# ---- Code ----


def code_of(text: str) -> str:
    """The last fenced block of Python in a reply, or all of it where there is none."""
    blocks = CODE.findall(text)
    return blocks[-1] if blocks else text


def code_parses() -> Reward:
    """1 where the reply's code is Python by its syntax, else 0. It is not run."""

    def judge(text: str) -> float:
        try:
            return float(bool(ast.parse(code_of(text)).body))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return 0.0

    return rule("code_parses", judge)


def code_passes(
    allow_execution: bool = False, column: str = "tests", seconds: float = 5.0, megabytes: int = 512
) -> Reward:
    """1 where the reply's code runs and then the row's tests pass, else 0; None where the row has no tests.

    The code is run: see reward_models/sandbox.py for what is limited. That limits accidents, not attackers.

    Args:
        allow_execution: must be true.
        column: Python code, such as assertions, or a list of it.
    """
    if not allow_execution:
        raise UserError(
            "code_passes runs code that a model wrote, which is off",
            needed="your leave: limits on time, memory, files and network guard against accidents, not attackers",
            mend="allow_execution=true, on a machine that may be harmed",
        )
    from reward_models.sandbox import run_code

    if run_code("works = True", "assert works", seconds, megabytes) != "passed":
        raise UserError(
            "code_passes cannot run code on this machine within its limits",
            got=f"seconds={seconds}, megabytes={megabytes}",
            mend="raise the limits; `python -I reward_models/sandbox_child.py` shows where it fails",
        )

    def judge(pair: tuple) -> float | None:
        completion, tests = pair
        if tests is None:
            return None
        tests = tests if isinstance(tests, str) else "\n".join(tests)
        return float(run_code(code_of(reply_text(completion)), tests, seconds, megabytes) == "passed")

    def reward(completions, **columns):
        _require_column(columns, column, "code_passes")
        with ThreadPoolExecutor(cpu_count()) as threads:
            return list(threads.map(judge, zip(completions, columns[column], strict=True)))

    reward.__name__ = "code_passes"
    return reward


def _require_column(columns: dict, column: str, name: str) -> None:
    if column not in columns:
        raise UserError(
            f"{name}: the rows have no column {column!r}",
            got=", ".join(sorted(columns)) or "no further columns",
            mend=f"name the column: reward_models.rules:{name}?column=NAME",
        )
