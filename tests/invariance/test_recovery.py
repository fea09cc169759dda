"""Running out of memory halves the batches, and nothing else: the weights are those of a run that had enough."""

from pathlib import Path

import pytest
import tiny_stages
from halved_runs import check_halved


@pytest.fixture(scope="module")
def parents(tmp_path_factory) -> Path:
    return tiny_stages.make(tmp_path_factory.mktemp("parents"))


@pytest.mark.parametrize("name", ["ppo", "sft", pytest.param("dpo", marks=pytest.mark.slow)])
def test_a_halved_run_ends_with_the_same_weights(name, parents, tmp_path, monkeypatch):
    check_halved(name, parents, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "sft-lora", "reward", "ppo-lora"])
def test_and_so_does_every_other_stage(name, parents, tmp_path, monkeypatch):
    check_halved(name, parents, tmp_path, monkeypatch)
