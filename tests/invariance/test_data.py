"""Rows and tokens are the same however many are read, encoded or packed together, and whether they are streamed."""

import data_cases as cases
import pytest
import ragged
from covering import covering
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ENCODED = covering({"name": list(ragged.TOKENIZERS), "characters": [1, 50, 10**6], "read": [1, 3, 100]})
PACKED = covering({"name": list(ragged.TOKENIZERS), "length": [16, 40, 128], "window": [1, 200, 10**6]})


@pytest.mark.parametrize("row", ENCODED, ids=str)
def test_a_documents_ids_are_its_own(row, tmp_path, monkeypatch):
    cases.check_tokenization(**row, folder=tmp_path, monkeypatch=monkeypatch)


@pytest.mark.parametrize("row", PACKED, ids=str)
def test_packing_keeps_every_document(row, tmp_path, monkeypatch):
    cases.check_packing(**row, folder=tmp_path, monkeypatch=monkeypatch)


@pytest.mark.parametrize("characters", [1, 60, 10**6])
def test_windows_pass_over_shards(characters, tmp_path, monkeypatch):
    cases.check_windows(characters, tmp_path, monkeypatch)


@pytest.mark.parametrize(("batch_rows", "limit"), [(1, None), (7, 15), (1000, None), (1000, 4)])
def test_streamed_rows_are_those_downloaded(batch_rows, limit, monkeypatch):
    cases.check_stream(batch_rows, limit, monkeypatch)


@settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(order=st.permutations(range(20)))
def test_filters_judge_each_text_alone(order, monkeypatch):
    cases.check_filters(order, monkeypatch)
