"""What all tests share: no network, one thread a process, a cache of their own, and where real data files are."""

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
# What tests compare with they compute on the CPU; tests/gpu alone wants to see a GPU.
if "ALIGNMENT_TEST_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Rows that a test tokenizes or maps are gone with it; a cache that was filled before could hide a fault.
DATASETS_CACHE = TemporaryDirectory(prefix="datasets-cache-")
os.environ["HF_DATASETS_CACHE"] = DATASETS_CACHE.name


@pytest.fixture(autouse=True)
def log_levels() -> None:
    """Undo what `align`'s main, run in this process by an earlier test, set: else what is logged hangs on the order."""
    for package in ("alignment", "reward_models", "eval"):
        logging.getLogger(package).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data files to test loaders with: ALIGNMENT_TEST_DATA, or ../shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ALIGNMENT_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data files at {folder}: set ALIGNMENT_TEST_DATA to a folder that holds them")
    return folder
