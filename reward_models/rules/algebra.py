r"""Whether two mathematical expressions are equal, as math-verify and sympy see it, in a process of its own.

sympy can take for ever, or all memory, over a short expression, and math-verify's own time limit works in the main
thread alone and cannot interrupt arithmetic on large numbers. So the process (algebra_worker.py) has limits on
processor time and memory that the kernel enforces; an expression on which it ends equals nothing. `is_mathematics`
keeps most such expressions from it.
"""

import json
import os
import re
import subprocess
import sys
import weakref
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
    """Whether a text is an expression that may be compared as one: no words, and nothing that could grow large."""
    if not text or len(text) > LONGEST or not re.fullmatch(r"[A-Za-z0-9\\{}()\[\]^_+\-*/|.,&<>= ]+", text):
        return False
    if not re.search(r"[A-Za-z\\^<>]|^[(\[].*,.*[)\]]$", text):  # 2024-01-05, 3-2, 555-1234 are no differences
        return False
    bare = re.sub(r"\\\\", " ", text)
    if not set(re.findall(r"\\([A-Za-z]+|.)", bare)) <= COMMANDS | {"{", "}"}:
        return False
    letters = re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", bare))
    if any(len(word) > 1 and word not in WORDS for word in letters) and not _is_product(bare, letters):
        return False
    return _is_small(bare)


def _is_product(text: str, letters: list[str]) -> bool:
    """Whether the letters that stand together are variables: 2xy, not `at` or `5 is it`."""
    if any(len(word) > 3 and word not in WORDS for word in letters) or not re.search(r"[0-9\\^+*/=<>-]", text):
        return False
    return not re.search(r"[A-Za-z] +[A-Za-z0-9]|[0-9] +[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", r"\\", text))


def _is_small(text: str) -> bool:
    """No long numbers, no exponent over two digits, no power of a power, no deep nesting."""
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
    """Whether a name stands in both cases in two expressions: math-verify takes x and X to be the same."""
    names = set(re.findall(r"\\[A-Za-z]+|[A-Za-z]", f"{given} {wanted}"))
    return len({name.lower() for name in names}) < len(names)


def text_equal(given: str, wanted: str) -> bool:
    """Two expressions by their text alone, white space aside."""
    return given.replace(" ", "") == wanted.replace(" ", "")


class Algebra:
    """Compares expressions. The process starts at the first call, and ends with this object or this process."""

    def __init__(self):
        self.lock, self.process, self.owner = Lock(), None, None

    def __call__(self, given: str, wanted: str) -> bool:
        """Whether they are equal; false where that cannot be said in time."""
        if text_equal(given, wanted):
            return True
        if mixes_cases(given, wanted):
            return False
        with self.lock:
            if self.process is None or self.owner != os.getpid():
                self._start()
            try:
                self.process.stdin.write(json.dumps([given, wanted]).encode() + b"\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
            except BrokenPipeError:
                answer = b""
            if not answer:  # it ended over this pair
                self.close()
            return answer == b"true\n"

    def _start(self) -> None:
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        self._finalizer = weakref.finalize(self, _end, self.process)

    def close(self) -> None:
        if self.process is not None and self.owner == os.getpid():
            self._finalizer()
        self.process = None


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
    with suppress(BrokenPipeError):  # the pair that it did not read
        process.stdin.close()
