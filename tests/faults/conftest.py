"""Tiny stages, and faults that come at a step."""

from pathlib import Path

import pytest
import tiny_stages
from transformers import Trainer


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
