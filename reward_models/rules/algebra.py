r"""Whether two mathematical expressions are equal, by math-verify and sympy in a separate process.

sympy can take for ever, or all memory, over a short expression. math-verify's own time limit works in the main thread
alone and cannot interrupt arithmetic on large numbers. The process (algebra_worker.py) therefore has limits on
processor time and memory that the kernel enforces, and an expression that exceeds them equals nothing.
`is_mathematics` keeps most such expressions away from it.
"""

import json
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

WORKER = Path(__file__).with_name("algebra_worker.py")
LONGEST, DEEPEST = 200, 12  # characters and nested brackets of an expression
# fmt: off
COMMANDS = frozenset((
    "frac", "sqrt", "pi", "theta", "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta",
    "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "psi", "omega", "Gamma", "Delta",
    "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega", "infty", "cdot", "times", "div", "sin", "cos", "tan", "cot",
    "sec", "csc", "arcsin", "arccos", "arctan", "log", "ln", "exp", "le", "ge", "ne", "lt", "gt", "cup", "cap",
    "lfloor", "rfloor", "lceil", "rceil", "begin", "end", "circ", "in",
))
# fmt: on
# fmt: off
WORDS = frozenset((
    "sqrt", "pi", "sin", "cos", "tan", "log", "ln", "exp", "pmatrix", "bmatrix", "matrix",
))
# fmt: on


def is_mathematics(text: str) -> bool:
    """Whether a text is an expression that is safe to compare: it has no words, and nothing that could grow large."""
    if not text or len(text) > LONGEST or not re.fullmatch(r"[A-Za-z0-9\\{}()\[\]^_+\-*/|.,&<>= ]+", text):
        return False
    if not re.search(r"[A-Za-z\\^<>]|^[(\[].*,.*[)\]]$", text):  # 2024-01-05, 3-2, 555-1234 are not differences
        return False
    bare = re.sub(r"\\\\", " ", text)
    if not set(re.findall(r"\\([A-Za-z]+|.)", bare)) <= COMMANDS | {"{", "}"}:
        return False
    letters = re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", bare))
    if any(len(word) > 1 and word not in WORDS for word in letters) and not _is_product(bare, letters):
        return False
    return _is_small(bare)


def _is_product(text: str, letters: list[str]) -> bool:
    """Whether adjacent letters are a product of variables, as in 2xy, not a word, as in `at` or `5 is it`."""
    if any(len(word) > 3 and word not in WORDS for word in letters) or not re.search(r"[0-9\\^+*/=<>-]", text):
        return False
    return not re.search(r"[A-Za-z] +[A-Za-z0-9]|[0-9] +[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", r"\\", text))


def _is_small(text: str) -> bool:
    """Whether it has no long number, no exponent over two digits, no power of a power and no deep nesting."""
    depth = deepest = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    text = re.sub(r"\s*\*\*\s*", "^", text.replace(" ", ""))
    half = re.sub(r"\^\{-?\\frac\{\d{1,2}\}\{\d{1,2}\}\}", "", text)  # a root, written as a power
    if depth or deepest > DEEPEST or re.search(r"\d{16}|\^-?[({]?-?\d{3}", text):
        return False
    return not re.search(r"\^[^+\-*/=,<>&\\]*\^|\^\{[^{}]*[{*^]|\^\([^()]*[(*^]|\)\^.*\)\^", half)


def mixes_cases(given: str, wanted: str) -> bool:
    """Whether two expressions have a name in both cases: math-verify takes x and X to be the same."""
    names = set(re.findall(r"\\[A-Za-z]+|[A-Za-z]", f"{given} {wanted}"))
    return len({name.lower() for name in names}) < len(names)


def text_equal(given: str, wanted: str) -> bool:
    """Whether two expressions are the same text, white space aside."""
    return given.replace(" ", "") == wanted.replace(" ", "")


class Limited:
    """Asks a process that limits itself; it starts at the first question and ends with this object or this process.

    Args:
        script: reads a line of JSON per question and writes a line of answer.
    """

    def __init__(self, script: Path) -> None:
        self.script, self.lock = script, Lock()
        self.worker: Worker | None = None

    def ask(self, *question: object) -> bytes:
        """The line of answer; empty if the process exceeded its limits, and ended."""
        with self.lock:
            if self.worker is None or self.worker.owner != os.getpid():
                self.worker = Worker(self.script)
                self._finalizer = weakref.finalize(self, self.worker.end)
            answer = self.worker.ask(question)
            if not answer:
                self.close()
            return answer

    def close(self) -> None:
        if self.worker is not None and self.worker.owner == os.getpid():
            self._finalizer()
        self.worker = None


class Algebra(Limited):
    """Compares expressions."""

    def __init__(self) -> None:
        super().__init__(WORKER)

    def __call__(self, given: str, wanted: str) -> bool:
        """Whether two expressions are equal; False if that cannot be decided in time."""
        if text_equal(given, wanted):
            return True
        return not mixes_cases(given, wanted) and self.ask(given, wanted) == b"true\n"


class Worker:
    """The process that is asked. A forked process does not share it with its parent."""

    def __init__(self, script: Path) -> None:
        self.owner = os.getpid()
        process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        assert process.stdin is not None and process.stdout is not None  # as they are pipes
        self.process, self.questions, self.answers = process, process.stdin, process.stdout

    def ask(self, question: Sequence[object]) -> bytes:
        """Its line of answer; empty if the process has ended."""
        try:
            self.questions.write(json.dumps(question).encode() + b"\n")
            self.questions.flush()
            return self.answers.readline()
        except BrokenPipeError:
            return b""

    def end(self) -> None:
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        self.answers.close()
        with suppress(BrokenPipeError):  # a pair that it did not read
            self.questions.close()
