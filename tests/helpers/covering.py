"""Pairwise covering arrays: a few rows in which every two values of two factors meet."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Row = dict[str, Any]
Pair = frozenset[tuple[str, int]]  # two (factor, index of its value)


def covering(
    factors: Mapping[str, Sequence], allowed: Callable[[Row], bool] = lambda row: True, seed: int = 0
) -> list[Row]:
    """Rows in which every pair of values meets, made greedily; pairs that no allowed row holds are left out.

    Args:
        factors: the values of each factor.
        allowed: whether a row, of which some factors may still be missing, can be part of the design.
        seed: breaks ties.
    """
    rng = random.Random(seed)
    uncovered = set(pairs(factors))
    rows = []
    for pair in sorted(uncovered, key=sorted):
        if pair in uncovered and (row := _completed(dict(pair), factors, allowed, uncovered, rng)):
            rows.append(row)
            uncovered -= pairs_of(row)
    return [{name: factors[name][index] for name, index in row.items()} for row in rows]


def pairs(factors: Mapping[str, Sequence]) -> Iterator[Pair]:
    """Every pair of values of two factors."""
    for one, other in combinations(factors, 2):
        for places in product(range(len(factors[one])), range(len(factors[other]))):
            yield frozenset(zip((one, other), places, strict=True))


def pairs_of(row: Mapping[str, int]) -> set[Pair]:
    """The pairs that a row of indices holds."""
    return {frozenset(two) for two in combinations(row.items(), 2)}


def every(factors: Mapping[str, Sequence], allowed: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """The full product of the allowed rows."""
    rows = (dict(zip(factors, values, strict=True)) for values in product(*factors.values()))
    return [row for row in rows if allowed(row)]


def _completed(
    row: dict[str, int],
    factors: Mapping[str, Sequence],
    allowed: Callable[[Row], bool],
    uncovered: set[Pair],
    rng: random.Random,
) -> dict[str, int] | None:
    """The row with all factors, each at the value that covers most; None if no such row is allowed."""
    if not allowed({name: factors[name][index] for name, index in row.items()}):
        return None
    missing = [name for name in factors if name not in row]
    if not missing:
        return {name: row[name] for name in factors}
    name = missing[0]

    def gain(index: int) -> tuple[int, float]:
        return sum(frozenset({(name, index), known}) in uncovered for known in row.items()), rng.random()

    for index in sorted(range(len(factors[name])), key=gain, reverse=True):
        if found := _completed({**row, name: index}, factors, allowed, uncovered, rng):
            return found
    return None
