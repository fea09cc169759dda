"""Real stages, two steps each: what they leave behind, not what they learn."""

from pathlib import Path

import pytest
from align_cli import REPOSITORY, align


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """An empty working directory with the recipes in it."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "recipes").symlink_to(REPOSITORY / "recipes")
    return folder


@pytest.fixture(scope="session")
def quick_run(workplace) -> Path:
    """recipes/tiny as a smoke run."""
    done = align("run", "recipes/tiny", "--quick", cwd=workplace)
    assert done.returncode == 0, done.stderr
    return workplace / "runs/tiny"


@pytest.fixture(scope="session")
def quick_lora_run(workplace, quick_run) -> Path:
    """recipes/tiny-lora as a smoke run, on the pretrained model of the other."""
    base = quick_run / "pretrain/checkpoint"
    options = [f"--sft.model_name_or_path={base}", "--evals.suites=[tinyworld_gold]", "--evals.extra=[]"]
    done = align("run", "recipes/tiny-lora", "--quick", *options, cwd=workplace)
    assert done.returncode == 0, done.stderr
    return workplace / "runs/tiny-lora"
