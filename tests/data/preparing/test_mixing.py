"""How many rows each source gives, and in which order."""

from collections import Counter

import numpy as np
import pytest

from alignment.data.preparing import mixing


@pytest.mark.parametrize(
    ("rows", "weights", "epochs", "expected"),
    [
        ([100, 50], None, [1, 1], [100, 50]),
        ([100, 50], None, [1, 2.5], [100, 125]),
        ([100, 50], None, [0.5, 0.001], [50, 1]),
        ([100, 50], [1, 1], [1, 1], [50, 50]),  # the second sets the length
        ([100, 50], [3, 1], [1, 1], [100, 33]),  # the first does
        ([100, 50], [0.9, 0.1], [1, 1], [100, 11]),
        ([100, 10], [1, 1], [1, 3], [30, 30]),  # repeats only as far as epochs allows
        ([1000, 10, 500], [2, 1, 1], [1, 1, 1], [20, 10, 10]),
        ([1000, 1000], [1, 1e-6], [1, 1], [1000, 1]),
    ],
)
def test_counts(rows, weights, epochs, expected):
    assert mixing.counts(rows, weights, epochs) == expected


def test_the_scarcest_source():
    assert mixing.scarcest([1000, 10, 500], [2, 1, 1], [1, 1, 1]) == 1
    assert mixing.scarcest([1000, 10, 500], [2, 1, 1], [1, 90, 1]) == 0


def test_every_row_comes_once_before_any_comes_twice():
    rows, counts = [7, 4, 5], [7, 11, 3]
    order = mixing.order(rows, counts, seed=0)
    assert len(order) == 21
    first, second, third = ([row for row in order if low <= row < high] for low, high in ((0, 7), (7, 11), (11, 16)))
    assert sorted(first) == list(range(7))
    assert sorted(second[:4]) == sorted(second[4:8]) == [7, 8, 9, 10] and len(set(second[8:])) == 3
    assert second[:4] != second[4:8]  # each pass in an order of its own
    assert len(set(third)) == 3


def test_any_part_has_nearly_the_shares_of_the_whole():
    order = mixing.order([9000, 1000], [9000, 1000], seed=3)
    for length in (100, 1000, 5000):
        assert abs(int(np.sum(order[:length] >= 9000)) - length // 10) <= 2
    assert not np.array_equal(order[order < 9000], np.arange(9000))


def test_the_order_follows_the_seed():
    first, again, other = (mixing.order([50, 30], [50, 45], seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_sources_rows_do_not_hang_on_its_neighbours():
    alone = mixing.order([50, 30], [50, 30], 0)
    among = mixing.order([50, 10], [50, 10], 0)
    assert [row for row in alone if row < 50] == [row for row in among if row < 50]
    assert Counter(alone) == Counter(range(80))
