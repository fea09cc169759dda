"""Advantages and statistics of a rollout do not depend on row order, padding, or the rows of each process."""

from hypothesis import given, settings
from hypothesis import strategies as st
from two_threads import check_rows, check_totals

DERANDOMISED = settings(derandomize=True, database=None, deadline=None, max_examples=12)
LENGTHS = st.lists(st.integers(1, 9), min_size=2, max_size=7)


@DERANDOMISED
@given(LENGTHS, st.data())
def test_two_processes_have_the_statistics_of_a_single_process(lengths, data):
    check_totals(lengths, data.draw(st.integers(1, len(lengths) - 1)))


@DERANDOMISED
@given(LENGTHS, st.integers(0, 3), st.data())
def test_order_and_padding_do_not_matter(lengths, before, data):
    check_rows(lengths, data.draw(st.permutations(range(len(lengths)))), before)
