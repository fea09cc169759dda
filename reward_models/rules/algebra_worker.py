"""The process that `algebra.Algebra` starts: reads pairs of expressions as JSON lines, writes whether they are equal.

A script; do not import it. It limits its own processor time, per pair, and its memory.
"""

import json
import logging
import re
import resource
import signal
import sys
from contextlib import suppress

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from latex2sympy2_extended.sets import FiniteSet
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Eq, Expr, MatrixBase, N, Rational, Set, Symbol, simplify
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

SECONDS, BYTES = 3.0, 2 * 2**30
DECIMAL = re.compile(r"(?<![\w.])(\d*)\.(\d+)")
LATEX = [  # quantities.py compares units; here they would be dropped, 3 m read as 3
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
        )
    )
]


def read(text: str) -> object:
    """The expression in a text, with decimals as exact fractions; None if the text is not an expression."""
    text = re.sub(r"(?<![\\A-Za-z])(sqrt|log|ln|exp|sin|cos|tan)(?=\()", r"\\\1", text)
    text = re.sub(r"\\sqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)
    text = re.sub(r"\*\*\s*(-?\w|\()", r"^\1", text)
    text = DECIMAL.sub(lambda found: rf"\frac{{{int(found[1] + found[2])}}}{{{10 ** len(found[2])}}}", text)
    found = parse(f"${text}$", LATEX, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if len(found) == 1 else None


def near(a: Expr, b: Expr) -> bool:
    """Whether two expressions agree to thirty digits at a test point; math-verify's own tolerance is coarser."""
    if a.has(Symbol) or b.has(Symbol):
        names = sorted({str(one) for one in a.free_symbols | b.free_symbols})
        point = {Symbol(name): Rational(17 + 6 * at, 13) for at, name in enumerate(names)}
        a, b = (one.subs({s: point[Symbol(str(s))] for s in one.free_symbols}) for one in (a, b))
    one, other = N(a, 40), N(b, 40)
    size = max(abs(one), abs(other))
    return bool(size == 0 or abs(one - other) < size * Rational(1, 10**30))


def same_number(a: Expr, b: Expr) -> bool:
    a, b = a.doit(), b.doit()
    return near(a, b) and bool(verify(b, a, timeout_seconds=None))


def same(given: str, wanted: str) -> bool:
    a, b = read(given), read(wanted)
    if isinstance(a, Eq) and isinstance(b, Eq):
        over = simplify((a.lhs - a.rhs) / (b.lhs - b.rhs))
        return bool(over.is_number and over.is_finite and over.is_nonzero)
    if isinstance(a, Expr) and isinstance(b, Expr):
        return same_number(a, b)
    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase):
        return a.shape == b.shape and all(map(same_number, a.flat(), b.flat()))
    if isinstance(a, FiniteSet) or isinstance(b, FiniteSet) or isinstance(a, Eq) or isinstance(b, Eq):
        return False
    kinds = (Set, Relational, Boolean)
    if isinstance(a, kinds) and isinstance(b, kinds):
        return bool(verify(b, a, allow_set_relation_comp=True, timeout_seconds=None))
    return False


def main() -> None:
    logging.disable()
    with suppress(ValueError, OSError):  # macOS refuses it
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # SIGPROF ends the process at any point
        try:
            answer = same(*json.loads(line))
        except Exception:  # sympy raises many types; expressions that cannot be compared are not equal
            answer = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
