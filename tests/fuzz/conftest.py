"""No progress bars of datasets: a fuzz test reads thousands of files."""

import datasets
import pytest


@pytest.fixture(autouse=True, scope="module")
def no_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
