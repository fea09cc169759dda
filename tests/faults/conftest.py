"""What the tests of faults share: tiny stages and faults that come at a step, and the run directory of the kills."""

from pathlib import Path

import pytest
import tiny_stages
from killed_runs import Runs
from transformers import Trainer


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    """One run directory for all tests of kills: the stages that each is compared with are run once."""
    return Runs(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="session")
def parents(tmp_path_factory) -> Path:
    return tiny_stages.make(tmp_path_factory.mktemp("parents"))


@pytest.fixture
def at_step(monkeypatch):
    """Let something happen in the backward pass of chosen steps: at_step({2}, function of the trainer)."""

    def inject(steps: set[int], happens) -> None:
        original = Trainer.training_step

        def training_step(self, *args, **kwargs):
            loss = original(self, *args, **kwargs)
            if self.state.global_step in steps:
                happens(self)
            return loss

        monkeypatch.setattr(Trainer, "training_step", training_step)

    return inject
