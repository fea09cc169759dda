"""What the tests of the server share."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def collected_once():
    """Keep what is loaded out of garbage collection: transformers collects whenever an engine ends."""
    gc.freeze()
    yield
    gc.unfreeze()
