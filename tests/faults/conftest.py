"""Fixtures for tests of faults: tiny stages, faults at chosen steps, and one run directory for all kills."""

from pathlib import Path

import pytest
import tiny_stages
from killed_runs import Runs
from transformers import Trainer


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    """One run directory for all tests of kills, so that the uninterrupted stages are run once."""
    return Runs(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="session")
def parents(tmp_path_factory) -> Path:
    return tiny_stages.make(tmp_path_factory.mktemp("parents"))


@pytest.fixture
def at_step(monkeypatch):
    """Call a function of the trainer after the backward pass of chosen steps: at_step({2}, function)."""

    def inject(steps: set[int], happens) -> None:
        original = Trainer.training_step

        def training_step(self, *args, **kwargs):
            loss = original(self, *args, **kwargs)
            if self.state.global_step in steps:
                happens(self)
            return loss

        monkeypatch.setattr(Trainer, "training_step", training_step)

    return inject
