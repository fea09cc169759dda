"""Advantages and statistics of a rollout do not hang on its rows' order, on padding, or on who holds which row."""

from hypothesis import given, settings
from hypothesis import strategies as st
from two_threads import check_rows, check_totals

DERANDOMISED = settings(derandomize=True, database=None, deadline=None, max_examples=12)
LENGTHS = st.lists(st.integers(1, 9), min_size=2, max_size=7)


@DERANDOMISED
@given(LENGTHS, st.data())
def test_two_processes_have_the_statistics_of_one(lengths, data):
    check_totals(lengths, data.draw(st.integers(1, len(lengths) - 1)))


@DERANDOMISED
@given(LENGTHS, st.integers(0, 3), st.data())
def test_neither_order_nor_padding_matters(lengths, before, data):
    check_rows(lengths, data.draw(st.permutations(range(len(lengths)))), before)
