"""Mixing of several sources into one order of rows, by weights, epochs and a seed.

The mix is a list of row numbers of the concatenated sources, so that no rows are copied and training can resume at any
position. It depends only on the arguments here.

A source contributes at most `rows * epochs` rows. With weights, the sources keep their shares and the scarcest source
limits the length of the mix; without weights, each contributes all its rows. A row is repeated only after all other
rows of its source have occurred.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def counts(rows: Sequence[int], weights: Sequence[float] | None, epochs: Sequence[float]) -> list[int]:
    """Return the number of rows that each source contributes, at least 1.

    Args:
        rows: number of rows of each source.
        weights: weight of each source, with any sum; None to use all rows.
        epochs: how often a row of each source may occur.
    """
    available = [max(1, round(count * times)) for count, times in zip(rows, epochs, strict=True)]
    if weights is None:
        return available
    # The longest mix in which no source exceeds its limit.
    length = min(limit / weight for limit, weight in zip(available, weights, strict=True))
    return [min(limit, max(1, round(length * weight))) for limit, weight in zip(available, weights, strict=True)]


def scarcest(rows: Sequence[int], weights: Sequence[float], epochs: Sequence[float]) -> int:
    """Return the index of the source that limits the length of a weighted mix."""
    lengths = [
        max(1, round(count * times)) / weight for count, weight, times in zip(rows, weights, epochs, strict=True)
    ]
    return lengths.index(min(lengths))


def order(rows: Sequence[int], counts: Sequence[int], seed: int) -> np.ndarray:
    """Return the mix as row numbers of the concatenated sources. -> [sum of counts]

    Each source is drawn in passes, each pass in a new order, and its rows are spread evenly: any part of the mix has
    nearly the shares of the whole.
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
