"""Several sources as one order of rows, by weights, epochs and a seed.

The mix is a list of row numbers into the sources one after another, so nothing is copied and any place in it can be
returned to. It depends on the numbers given here alone.

Every source gives at most `rows * epochs`. With weights the sources keep their shares, and the mix is as long as the
scarcest source allows; without, each gives all that it may. A row comes again only after all others of its source
have come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def counts(rows: Sequence[int], weights: Sequence[float] | None, epochs: Sequence[float]) -> list[int]:
    """How many rows each source gives, at least one.

    Args:
        rows: of each source.
        weights: of each source, of any sum; None where each gives all it may.
        epochs: how often a row of each source may come.
    """
    available = [max(1, round(count * times)) for count, times in zip(rows, epochs, strict=True)]
    if weights is None:
        return available
    # The longest mix in which no source has to give more than it may.
    length = min(limit / weight for limit, weight in zip(available, weights, strict=True))
    return [min(limit, max(1, round(length * weight))) for limit, weight in zip(available, weights, strict=True)]


def scarcest(rows: Sequence[int], weights: Sequence[float], epochs: Sequence[float]) -> int:
    """The source that sets the length of a weighted mix."""
    lengths = [
        max(1, round(count * times)) / weight for count, weight, times in zip(rows, weights, epochs, strict=True)
    ]
    return lengths.index(min(lengths))


def order(rows: Sequence[int], counts: Sequence[int], seed: int) -> np.ndarray:
    """The mix, as numbers of rows in the concatenated sources. -> [sum of counts]

    Each source is drawn in passes, every pass in a new order, and its rows are spread evenly over the mix: any part
    of it has nearly the shares of the whole.
    """
    numbers, places = [], []
    first = 0
    for source, (size, count) in enumerate(zip(rows, counts, strict=True)):
        generator = np.random.Generator(np.random.PCG64([seed, source]))
        passes = [generator.permutation(size) for _ in range(-(-count // size))]
        numbers.append(first + np.concatenate(passes)[:count])
        places.append((np.arange(count) + generator.random(count)) / count)
        first += size
    return np.concatenate(numbers)[np.argsort(np.concatenate(places), kind="stable")]
