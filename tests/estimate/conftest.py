"""A small valid recipe for a test to break."""

import pytest
from check_cases import Case


@pytest.fixture
def case(tmp_path) -> Case:
    return Case(tmp_path / "case")
