"""Where rows that tests write go: tests/conftest.py sets it."""

from pathlib import Path

import datasets
import pytest


@pytest.fixture
def datasets_cache() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE)
