"""Tiny reward models on disk: whole ones, and adapters on one base."""

from pathlib import Path

import ppo_tiny as tiny
import pytest
import torch
from peft import get_peft_model

from alignment.models.loading import load_trainable


def save(model, folder: Path) -> str:
    """A model with the tiny tokenizer beside it, as a stage leaves it."""
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> list[str]:
    """Three reward models, one of them of another architecture."""
    folder = tmp_path_factory.mktemp("whole")
    made = [("llama", 3), ("llama", 4), ("gpt2", 5)]
    return [
        save(tiny.model(kind, head="score", seed=seed, initializer_range=0.5), folder / f"judge{seed}/checkpoint")
        for kind, seed in made
    ]


@pytest.fixture(scope="session")
def adapters(tmp_path_factory) -> list[str]:
    """Three reward models that are adapters, with a score head each, on one saved causal LM."""
    folder = tmp_path_factory.mktemp("adapters")
    tiny.model(initializer_range=0.5).save_pretrained(folder / "base")
    paths = []
    for seed in range(3):
        base = load_trainable(str(folder / "base"), "sequence-classification")
        judge = get_peft_model(base, tiny.LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS"))
        torch.manual_seed(10 + seed)
        for name, parameter in judge.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.data.normal_(std=0.3)
        paths.append(save(judge, folder / f"adapter{seed}/checkpoint"))
    return paths
