"""Where the models of these tests are saved: made once, read by every test."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bases")
